"""Checks of the instruments, and of what torch does on a device; they need torch and NumPy alone.

Each returns its finding in words, and numbers; what is wrong is raised as ``CheckFailed``.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bench_apts.meters import memory_use
from bench_apts.meters.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    Finding = tuple[str, dict[str, Any]]

_CLOSE = 0.1
"""Share by which two clocks may differ over work of tenths of a second."""

_MIB = 2**20


class CheckFailed(Exception):
    """What a check expected, and what it saw."""


class CheckSkipped(Exception):
    """Why a check could not be made here."""


def require(holds: bool, message: str) -> None:
    """Refuse what a check has seen.

    Raises:
        CheckFailed: It does not hold.
    """
    if not holds:
        raise CheckFailed(message)


def synchronize(device: str) -> None:
    """Wait for what was queued."""
    if device == "cuda":
        torch.cuda.synchronize()


def _work(device: str, products: int) -> Callable[[], None]:
    """Return work to queue: products of matrices that fill the device, a tenth of them on CPUs."""
    size, products = (4096, products) if device == "cuda" else (256, products // 10)
    left, out = torch.ones(size, size, device=device), torch.empty(size, size, device=device)

    def queue() -> None:
        for _ in range(products):
            torch.mm(left, left, out=out)

    queue()
    synchronize(device)
    return queue


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def check_clock_and_events(device: str) -> Finding:
    """Queued work is billed to the part that queued it, as CUDA's events time it."""
    queue, clock = _work(device, 200), Clock(lambda: synchronize(device))
    clock.switch("train")
    if device == "cuda":
        begin, end = (_event() for _ in range(2))
        begin.record()
        queue()
        end.record()
    else:
        began = time.perf_counter()
        queue()
        reference = time.perf_counter() - began
    host_s = clock.seconds("train")
    clock.switch("eval")
    clock.switch("log")
    if device == "cuda":
        reference = begin.elapsed_time(end) / 1000
    train, evaluation = clock.seconds("train"), clock.seconds("eval")
    numbers = {"train_s": train, "events_s": reference, "eval_s": evaluation, "host_s": host_s}
    require(train >= (1 - _CLOSE) * reference,
            f"the clock billed {train:.4f} s to training, events say {reference:.4f} s")
    if device == "cuda":  # CPUs are shared with other programs
        require(train <= (1 + _CLOSE) * reference + 1e-3,
                f"the clock billed {train:.4f} s to training, events say {reference:.4f} s")
        require(evaluation <= _CLOSE * train + 1e-3,
                f"{evaluation:.4f} s of {train:.4f} s of training were billed to the evaluation")
    return f"{train:.4f} s of training, {reference:.4f} s by events", numbers


def check_clock_and_profiler(device: str) -> Finding:
    """Training time is that of the kernels that torch's profiler saw."""
    from torch.profiler import ProfilerActivity, profile

    queue, clock = _work(device, 100), Clock(lambda: synchronize(device))
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=kinds) as seen:
        queue()  # the profiler's first kernels take longer
        synchronize(device)
    clock.switch("train")
    with profile(activities=kinds) as seen:
        began = time.perf_counter()
        queue()
        synchronize(device)
        billed = time.perf_counter() - began
    name = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    kernels = sum(getattr(event, name) for event in seen.key_averages()) / 1e6
    require(kernels > 0, "the profiler saw no kernel")
    require(kernels <= billed * (1 + _CLOSE), f"{kernels:.4f} s of kernels in {billed:.4f} s")
    if device == "cuda":
        require(kernels >= billed * (1 - 2 * _CLOSE),
                f"the clock billed {billed:.4f} s, of which kernels took {kernels:.4f} s")
    numbers = {"billed_s": billed, "kernels_s": kernels}
    return f"{billed:.4f} s, {kernels:.4f} s in kernels", numbers


def check_memory_peak(device: str) -> Finding:
    """A block that is freed again is in the peak until it is reset, and not in the baseline."""
    baseline = memory_use.baseline_bytes(device)
    memory_use.reset_peak(device)
    before = memory_use.peak_bytes(device)
    block = torch.ones(256 * _MIB, dtype=torch.uint8, device=device)
    synchronize(device)
    del block
    peak = memory_use.peak_bytes(device)
    memory_use.reset_peak(device)
    after = memory_use.peak_bytes(device)
    numbers = {"baseline_bytes": baseline, "peak_bytes": peak, "after_bytes": after}
    require(baseline in (None, before), f"the baseline is {baseline}, the peak {before}")
    require(peak - before >= 200 * _MIB, f"the peak rose by {(peak - before) / _MIB:.0f} MiB only")
    require(peak - after >= 200 * _MIB, "the peak was not reset")
    return f"256 MiB raised the peak by {(peak - before) / _MIB:.0f} MiB", numbers


def check_meter(device: str) -> Finding:
    """Bytes of known collectives, on one rank for each GPU."""
    from torch.multiprocessing.spawn import spawn

    import bench_apts.meters.comm  # noqa: F401 - what it lacks is to be said here, not by a rank

    ranks = torch.cuda.device_count() if device == "cuda" else 2
    sizes = sorted({1, ranks})
    for size in sizes:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        spawn(_metered, (size, device, port), nprocs=size)  # type: ignore[no-untyped-call]
    backend = "NCCL" if device == "cuda" else "gloo"
    return (f"all-reduce, all-gather and broadcast over {backend} at N = "
            f"{', '.join(map(str, sizes))}", {"ranks": sizes})


def _metered(rank: int, size: int, device: str, port: int) -> None:
    """One rank of ``check_meter``."""
    import torch.distributed as dist

    from bench_apts.meters.comm import CollectiveCounter

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    meter = CollectiveCounter()
    meter.install()
    place = torch.device(device, rank) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=size,
                            device_id=place if device == "cuda" else None)
    meter.phase = "train"
    whole = torch.full((1_000,), float(rank + 1), device=place)
    dist.all_reduce(whole)
    parts = [torch.empty(10, device=place) for _ in range(size)]
    dist.all_gather(parts, torch.full((10,), float(rank), device=place))
    dist.broadcast(whole, src=0)
    synchronize(device)
    require(bool((whole == size * (size + 1) / 2).all()), "the all-reduce added up something else")
    require([part[0].item() for part in parts] == list(range(size)), "the all-gather mixed ranks")
    seen = {name: (found.calls, found.payload_bytes)
            for name, found in meter.snapshot()["train"].items()}
    wanted = {"all_reduce": (1, 4_000), "all_gather": (1, 40 * size), "broadcast": (1, 4_000)}
    require(seen == wanted, f"the meter saw {seen}, expected {wanted}")
    ideal = meter.snapshot()["train"]["all_reduce"].ideal_bytes
    require(ideal == 2 * (size - 1) / size * 4_000, f"{ideal} ideal bytes of an all-reduce")
    dist.destroy_process_group()


def check_bf16(device: str) -> Finding:
    """A forward pass in bfloat16 returns about what float32 does."""
    from bench_apts.trial.trained_model import in_precision

    torch.manual_seed(0)
    net, inputs = _convolutional().to(device), torch.randn(32, 3, 16, 16, device=device)
    forward = in_precision(type(net).forward, torch.device(device), "bf16")
    with torch.no_grad():
        exact, mixed = net(inputs), forward(net, inputs)
    require(mixed.dtype == torch.float32, f"outputs are {mixed.dtype}")
    error = float((mixed - exact).norm() / exact.norm())
    require(0 < error < 0.05, f"outputs differ by {error:.2%}: bfloat16 differs by up to 5 %")
    return f"outputs within {error:.2%} of float32", {"error": error}


def check_channels_last(device: str) -> Finding:
    """Weights, gradients and momentum of SGD and AdamW keep the order of channels_last."""
    for make in (lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), torch.optim.AdamW):
        net = _convolutional().to(device).to(memory_format=torch.channels_last)
        optimizer = make(net.parameters())
        inputs = torch.randn(8, 3, 16, 16, device=device).to(memory_format=torch.channels_last)
        for _ in range(2):
            optimizer.zero_grad()
            torch.autograd.backward(net(inputs).square().mean())
            optimizer.step()
        weight = next(p for p in net.parameters() if p.dim() == 4 and p.shape[1] > 1)
        held = [weight, weight.grad, *(value for value in optimizer.state[weight].values()
                                       if torch.is_tensor(value) and value.dim() == 4)]
        for tensor in held:
            assert tensor is not None
            require(tensor.is_contiguous(memory_format=torch.channels_last),
                    f"a tensor of {type(optimizer).__name__} has the strides {tensor.stride()}")
    return "SGD and AdamW keep it", {}


def check_compile(device: str) -> Finding:
    """A compiled network computes what the plain one does."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)).to(device)
    inputs = torch.randn(32, 64, device=device)
    began = time.perf_counter()
    compiled = torch.compile(net)(inputs)
    took = time.perf_counter() - began
    error = float((compiled - net(inputs)).abs().max())
    require(error < 1e-3, f"outputs differ by {error:.2g}")
    return f"compiled in {took:.1f} s", {"compile_s": took, "error": error}


def check_determinism(device: str) -> Finding:
    """The same training twice: on CPUs to the bit, on GPUs as close as is said."""
    def trained() -> torch.Tensor:
        torch.manual_seed(0)
        net = _convolutional().to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        for _ in range(20):
            inputs = torch.randn(32, 3, 16, 16, device=device)
            optimizer.zero_grad()
            torch.autograd.backward(net(inputs).square().mean())
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    one, other = trained(), trained()
    apart = float((one - other).norm() / one.norm())
    require(apart <= (0 if device == "cpu" else 0.01), f"two trainings end {apart:.2g} apart")
    return "the same bits" if apart == 0 else f"{apart:.2g} apart", {"apart": apart}


def _convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(16 * 16 * 16, 10))
