"""Memory: the peak of the device or process, and the bytes of the tensors that a method holds.

A process on CPUs holds Python, torch's libraries and the data besides, a hundred times as much as
a small model, so that its resident set says nothing of the method. Counted are parameters,
buffers, gradients, the optimizer's state and whatever other tensors can be reached from there;
not activations, temporaries of a step, nor what C++ alone refers to.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")

_LEAVES = (types.ModuleType, type, types.CodeType, types.FrameType, types.BuiltinFunctionType, str,
           bytes, bytearray, int, float, complex, bool, type(None))
"""Types of objects that refer to nothing of a method's own."""


def reset_peak(device: str) -> None:
    """Start a new peak, so that what the process did before does not count."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        # 5 resets the kernel's high-water mark of the resident set (man 5 proc).
        with contextlib.suppress(OSError):  # /proc may be read-only in a container
            _CLEAR_REFS.write_text("5")


def baseline_bytes(device: str) -> int | None:
    """Return what is in use on CUDA now, counted as ``peak_bytes`` counts; None on the CPU.

    With the workspaces of cuBLAS and cuBLASLt, which the first products of matrices in a thread
    make; a backward pass has a thread of its own.
    """
    if device != "cuda":
        return None
    one = torch.ones(16, 16, device=device, requires_grad=True)
    torch.autograd.backward(torch.nn.functional.linear(one, one, one[0]).sum())
    torch.cuda.synchronize()
    del one
    return int(torch.cuda.memory_allocated())


def peak_bytes(device: str) -> int:
    """Return the peak since ``reset_peak``: device memory on CUDA, else the resident set.

    The resident set includes what the process shares with others (torch's libraries, the
    memory-mapped data).
    """
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if _STATUS.exists():
        for line in _STATUS.read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held_tensor_bytes(roots: Iterable[object], apart: Iterable[object] = ()) -> int:
    """Return the bytes of all tensors that can be reached, each storage once.

    Args:
        roots: Where to begin, for instance a model and a stepper.
        apart: Objects whose tensors do not count, such as the data.
    """
    left_out = _storages(apart)
    return sum(size for key, size in _storages(roots).items() if key not in left_out)


def _storages(roots: Iterable[object]) -> dict[tuple[str, int], int]:
    """Return the size of each storage that can be reached, by device and address."""
    found: dict[tuple[str, int], int] = {}
    waiting, seen = list(roots), {}
    while waiting:
        one = waiting.pop()
        if isinstance(one, _LEAVES) or id(one) in seen:
            continue
        seen[id(one)] = one  # kept, so that no other object takes its id
        if issubclass(type(one), torch.Tensor):
            waiting += _of_tensor(one, found)
        elif isinstance(one, types.FunctionType):
            # Its globals are the module's, not the method's.
            waiting += [one.__closure__, one.__defaults__, one.__kwdefaults__]
        else:
            waiting += gc.get_referents(one)
    return found


def _of_tensor(tensor: Any, found: dict[tuple[str, int], int]) -> Iterator[object]:
    """Note a tensor's storage; yield what it refers to."""
    flatten = getattr(type(tensor), "__tensor_flatten__", None)
    if flatten is not None and type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        names, _ = tensor.__tensor_flatten__()
        yield from (getattr(tensor, name) for name in names)
    elif tensor.layout is torch.strided and tensor.device.type != "meta":
        storage = tensor.untyped_storage()
        if storage.nbytes():
            found[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    if tensor.is_leaf:
        yield tensor.grad
    yield getattr(tensor, "__dict__", None)
