"""The pre-hook in C++: compiled when first asked for, a small share of the Python hook's cost.

torch keeps what it compiled (in ``TORCH_EXTENSIONS_DIR`` or the user's cache) under a lock of the
operating system, so that ranks which ask together wait for one compilation.

Three ways to be told of every collective, all in the c10d dispatcher below Python.

Each sees what DDP's C++ reducer, DeepSpeed and compiled programs send as well as plain calls;
a TorchDispatchMode or the profiler would miss what worker threads issue (docs/measurement.md, 3).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.errors import UserError, describe_error, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_TELLING = re.compile(r"\berror:|not found|No such file")
"""What the line that tells has among all that ninja and the compiler print."""

_SOURCE = Path(__file__).with_name("native.cpp")


@functools.cache
def native_module() -> Any:
    """Returns the compiled native.cpp, most of a minute later where it is not cached.

    Raises:
        UserError: It cannot be compiled here.
    """
    try:
        from torch.utils import cpp_extension

        return cpp_extension.load("bench_apts_meter", [str(_SOURCE)], extra_cflags=["-O2"])
    except (ImportError, OSError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        reason = next(filter(_TELLING.search, lines), lines[0])
        raise UserError(
            f"the native communication meter cannot be compiled: {reason}; install a C++ "
            "compiler, ninja and setuptools, or unset BENCH_APTS_COMM_METER") from error


Fields = tuple[Any, ...]
"""The fields of a ``wire.Call``, as a plain tuple: one is made for every collective."""

_HOOK_ID = 0x0A9750


def by_hook(group: Any, told: Callable[[Fields, int], None]) -> None:
    """Has one process group tell of its collectives; needs torch 2.14's ``register_pre_hook``.

    Args:
        group: The process group.
        told: Is called with the collective and the number that c10d gives it.
    """
    names = _operations()

    def hook(args: Any) -> None:
        try:
            told(_fields(names[args.name.value], args.root, args.input_tensors,
                         args.output_tensors), args.op_id)
        except Exception as error:  # raised on, it would end the training
            name, number = _attribute(args, "name"), _attribute(args, "op_id")
            told(unread(str(_attribute(name, "name") or "UNKNOWN"),
                         _attribute(args, "input_tensors"), _attribute(args, "output_tensors"),
                         error), number if isinstance(number, int) else -1)

    group.register_pre_hook(_HOOK_ID, hook)


class NativeCalls(NamedTuple):
    """What a native hook counted.

    Attributes:
        calls: Collectives since it was set.
        first: Number that c10d gave the first of them.
        last: Highest number so far, −1 before any.
        counts: How often each was seen since they were taken the last time.
    """

    calls: int
    first: int
    last: int
    counts: dict[Fields, int]


def by_native(group: Any) -> Callable[[], NativeCalls]:
    """Has one process group's collectives counted without Python; needs what ``by_hook`` needs.

    Args:
        group: The process group.

    Returns:
        Takes what was counted.

    Raises:
        UserError: The hook cannot be compiled.
    """
    counter = native_module().watch(group, _HOOK_ID)
    names = _operations()

    def take() -> NativeCalls:
        calls, first, last, counts, unread = counter.take()
        # c10d's hooks do not tell the splits of an all-to-all.
        found: dict[Fields, int] = {
            (names[operation], root, dtype, inputs, outputs, ()): number
            for operation, root, dtype, inputs, outputs, number in counts}
        found |= {(names[operation], -1, None, (), (), (), one_line(text)): number
                  for operation, text, number in unread}
        return NativeCalls(calls, first, last, found)

    return take


def _operations() -> dict[int, str]:
    """c10d's names by number: an enumeration's own take longer to find than all the rest."""
    from torch._C import _distributed_c10d

    members: Mapping[str, Any] = _distributed_c10d.HookOpName.__members__
    return {member.value: name for name, member in members.items()}


class _Operator(NamedTuple):
    """A c10d operator: its name among the hooks and where its arguments stand."""

    operation: str
    group: int
    inputs: int | None
    outputs: int | None
    root: int | None
    splits: int | None


_ROLES = {
    "group": {"process_group"},
    "inputs": {"input_tensors", "input_tensor", "inputs", "input", "input_list", "tensors",
               "tensor"},
    "outputs": {"output_tensors", "output_tensor", "outputs", "output", "output_lists"},
    "root": {"root_rank", "dst", "src"},
    "splits": {"input_split_sizes"},
}
"""What c10d calls the arguments of its operators, by what they are to the meter."""


def operators() -> dict[str, _Operator]:
    """Returns c10d's operators on a process group in this torch, by name, from their schemas."""
    import torch

    found = {}
    for full in torch._C._dispatch_get_all_op_names():
        name = full.removeprefix("c10d::")
        if name == full or "." in name:
            continue
        arguments = [argument.name for argument in torch._C._get_schema(full, "").arguments]
        group, inputs, outputs, root, splits = (
            next((at for at, argument in enumerate(arguments) if argument in known), None)
            for known in _ROLES.values())
        if group is None:
            continue
        if name.startswith("recv"):  # received into the tensors that it is given
            inputs, outputs = None, inputs
        operation = name.strip("_").upper()
        if operation.endswith("BARRIER"):  # its tensor only names the device
            inputs = None
        found[name] = _Operator(operation, group, inputs, outputs, root, splits)
    return found


def by_dispatch(told: Callable[[Any, Fields], None]) -> Any:
    """Overrides c10d's operators so that every process group tells of its collectives.

    BackendSelect is the one key that all calls pass, those in inference mode included.

    Args:
        told: Is called with the process group, None if it cannot be read, and the collective.

    Returns:
        The library of overrides; they go when it does.
    """
    import torch

    below = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)
    unbox = torch.distributed.ProcessGroup.unbox
    library: Any = torch.library.Library("c10d", "IMPL")  # type: ignore[no-untyped-call]

    def override(name: str, operator: _Operator) -> None:
        overload = getattr(torch.ops.c10d, name).default

        def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            def argument(place: int | None) -> Any:
                return () if place is None else args[place]

            group = None
            try:
                group = unbox(args[operator.group])
                told(group, _fields(
                    operator.operation, -1 if operator.root is None else args[operator.root],
                    _flat(argument(operator.inputs)), _flat(argument(operator.outputs)),
                    tuple(argument(operator.splits))))
            except Exception as error:  # raised on, it would end the training
                inputs, outputs = (() if place is None else args[place:place + 1]
                                   for place in (operator.inputs, operator.outputs))
                told(group, unread(operator.operation, inputs, outputs, error))
            return overload.redispatch(keyset & below, *args, **kwargs)

        library.impl(name, kernel, "BackendSelect", with_keyset=True)

    for name, operator in operators().items():
        override(name, operator)
    return library


def _fields(
    operation: str, root: int, inputs: Sequence[Any], outputs: Sequence[Any],
    splits: tuple[int, ...] = (),
) -> Fields:
    first = inputs or outputs
    return (operation, root, first[0].dtype if first else None,
            _sizes(inputs), _sizes(outputs), splits)


def unread(operation: str, inputs: Any, outputs: Any, error: Exception) -> Fields:
    """Returns the fields of a collective that could not be read.

    Args:
        operation: c10d's name for it.
        inputs: Tensors that go in, of which those count that can be read.
        outputs: Tensors that come out, likewise.
        error: Why it could not be read.
    """
    return (operation, -1, None, _readable(inputs), _readable(outputs), (), describe_error(error))


def _readable(tensors: Any) -> tuple[int, ...]:
    found = []
    for tensor in _flat(tensors):
        try:
            found += [int(size) for size in _sizes([tensor])]
        except Exception:  # counted as unmeasured anyhow
            continue
    return tuple(found)


def _attribute(value: Any, name: str) -> Any:
    """An attribute of something of an unexpected kind; None where it has none."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _sizes(tensors: Sequence[Any]) -> tuple[int, ...]:
    """Bytes of each tensor; what is asked most often is answered first."""
    if not tensors:
        return ()
    for tensor in tensors:
        if tensor.is_sparse:  # its numel() is that of the dense tensor
            raise ValueError("a sparse tensor, whose bytes are not known")
    if len(tensors) == 1:
        return (tensors[0].numel() * tensors[0].element_size(),)
    return tuple([tensor.numel() * tensor.element_size() for tensor in tensors])


def _flat(tensors: Any) -> list[Any]:
    """The tensors of an argument: one, a list of them, or a list of lists."""
    if not isinstance(tensors, (list, tuple)):
        return [tensors]
    nested: Iterable[Any] = tensors
    return [tensor for part in nested for tensor in _flat(part)]
