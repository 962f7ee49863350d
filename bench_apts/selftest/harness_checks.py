"""Checks of whole trials, and of the harness beside a bare loop, on a device."""

from __future__ import annotations

import itertools
import math
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench_apts.contract import World
from bench_apts.core import store
from bench_apts.core.configuration import parse_selector
from bench_apts.core.errors import UserError
from bench_apts.core.job import RankJob
from bench_apts.core.records import Header
from bench_apts.core.spec import Study
from bench_apts.launch.elastic import Launcher
from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.optimizers import sgd
from bench_apts.plugins import registry, selection
from bench_apts.selftest.device_checks import (
    CheckFailed,
    CheckSkipped,
    require,
    synchronize,
)
from bench_apts.selftest.run_checks import LIMIT
from bench_apts.study import preflight
from bench_apts.study.plan import Plan
from bench_apts.suites import models
from bench_apts.trial.loader import Conversion, Order, Resident
from bench_apts.trial.observer import Observer
from bench_apts.trial.trained_model import in_precision, instrument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.selftest.device_checks import Finding

_FIRST = ("sgd", "adam", "apts", "zero2", "fsdp2")
"""Optimizers that are tried first, where they can run."""

_TRIAL_S = 30.0
"""Seconds that a short trial may take, and that each on CIFAR-10 trains: a minute for both."""

_MOST_RATIO = 1.1
"""Most that the harness may take of a bare loop's time."""

_EPOCH = 50_000
"""Samples of an epoch of CIFAR-10."""

_BLOCK = 15
"""Steps of one loop before the other takes its turn."""

_EPOCHS_S = 24.0
"""Seconds after which both epochs end early, on a slow GPU."""


def _trials(device: str, selectors: Sequence[str], suite: str, changes: Sequence[str],
            ranks: Sequence[int], limit_s: float, until: float = math.inf
            ) -> dict[str, tuple[str, TrialRecord]]:
    """Run a trial of each selector at each N; return why it failed, if it did, and its record.

    None is begun after ``until`` of ``time.monotonic``.
    """
    data_dir = os.environ.get("BENCH_APTS_DATA")
    study = Study(suites=(registry.suite(suite, tuple(changes)),),
                  entries=tuple(map(parse_selector, selectors)), ranks=tuple(ranks), trials=0,
                  seeds=1, base_seed=0, device="cuda" if device == "cuda" else "cpu", twins=False)
    try:
        found_data = preflight.prepare_data(study, Path(data_dir) if data_dir else None, True)
    except UserError as error:
        raise CheckSkipped(str(error)) from error
    plan = Plan(study, found_data)
    (prepared,) = plan.prepared.values()
    found = {}
    with TemporaryDirectory(prefix="bench-apts-selftest-") as folder, Launcher(
            plan.packages(), study.device) as launcher:
        for trial in plan.reporting([]):
            if time.monotonic() > until:
                break
            events = Path(folder) / f"{trial.run_id}.jsonl"
            store.append(events, Header(trial.run_id, store.now(), trial, {}))
            outcome = launcher.run(
                RankJob(trial, str(prepared.folder), str(events)), limit_s)
            record = store.read_trial(events)
            assert record is not None
            found[f"{trial.label} at N = {trial.ranks}"] = outcome.reason or "", record
    return found


def check_conformance(device: str) -> Finding:
    """A short trial of every optimizer that can run here keeps its contract."""
    limit_s = _TRIAL_S if device == "cuda" else 4 * _TRIAL_S  # CPUs are shared with others
    until = time.monotonic() + float(os.environ[LIMIT]) - limit_s
    there = torch.cuda.device_count() if device == "cuda" else 1
    chosen = selection.select("all")
    slow = {name for name in chosen.selectors if registry.optimizer(name).backend.nvcc}
    left_out = [*chosen.notes, *(f"{name}: nvcc builds its kernels for minutes"
                                 for name in sorted(slow))]
    names = sorted({*chosen.selectors} - slow, key=lambda name: (name not in _FIRST, name))
    found = _trials(device, names, "tabular", (
        "suite.budget.samples=1280", "suite.evaluation.every_samples=640",
        "suite.data.options.rows=4000"), sorted({1, there}), limit_s, until)
    if not found:
        raise CheckSkipped("no time was left for it")
    failed = {name: reason for name, (reason, _) in found.items() if reason}
    if failed:
        raise CheckFailed("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return (f"{len(found)} of {len(names) * len({1, there})} short trials, as time allowed",
            {"trials": list(found), "left_out": left_out})


def check_cifar10_resnet18(device: str) -> Finding:
    """SGD and APTS on CIFAR-10, cut to a minute: how fast they go, and how far they come."""
    suite = "cifar10-resnet18" if device == "cuda" else "tabular"
    found = _trials(device, ("sgd", "apts"), suite, (
        f"suite.budget.seconds={_TRIAL_S if device == 'cuda' else 1:.0f}",), (1,), 90.0)
    numbers = {}
    for name, (reason, record) in found.items():
        require(not reason and len(record.evals) > 1, f"{name}: {reason or 'no evaluation'}")
        last = record.evals[-1]
        numbers[name.split()[0]] = {
            "samples_per_s": last.samples / last.train_s, "validation": last.validation,
            "energy_j": last.energy_j, "peak_memory_bytes": last.peak_memory_bytes}
    return "; ".join(f"{name}: {values['samples_per_s']:,.0f} samples/s"
                     for name, values in numbers.items()), numbers


def check_harness_and_bare_loop(device: str) -> Finding:
    """An epoch of ResNet-18 through the harness and one of a bare loop, in turns of some steps."""
    name, batch, samples = (("resnet18", 128, _EPOCH) if device == "cuda"
                            else ("cnn-small", 16, 32 * _BLOCK))
    drawn = np.random.default_rng(0)
    inputs = drawn.integers(0, 256, (samples, 3, 32, 32), dtype=np.uint8)
    targets = drawn.integers(0, 10, samples)
    loops = {kind: make(device, name, batch, inputs, targets)
             for kind, make in (("bare", _bare), ("harness", _harnessed))}
    spent, taken, whole = dict.fromkeys(loops, 0.0), 0, samples // batch
    for run in loops.values():
        run(_BLOCK)  # chooses kernels
    until = time.monotonic() + _EPOCHS_S
    while taken < whole and (not taken or time.monotonic() < until):
        steps = min(_BLOCK, whole - taken)
        taken += steps
        for kind, run in loops.items():
            synchronize(device)
            began = time.perf_counter()
            run(steps)
            synchronize(device)
            spent[kind] += time.perf_counter() - began
    ratio = spent["harness"] / spent["bare"]
    numbers = {"ratio": ratio, "steps": taken, "epoch_steps": whole,
               **{f"{kind}_s": seconds for kind, seconds in spent.items()}}
    require(ratio <= _MOST_RATIO or device == "cpu",
            f"{taken} steps take {ratio:.3f} times what a bare loop's do")
    part = "an epoch" if taken == whole else (f"the first {taken} of {whole} steps of an epoch, "
                                              f"{_EPOCHS_S:.0f} s for both loops,")
    return f"{part} takes {ratio:.3f} times a bare loop's {spent['bare']:.2f} s", numbers


_MEAN, _STD, _SCALE = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1 / 255


def _network(device: str, name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build(name, {}, (3, 32, 32), 10).to(device).to(memory_format=torch.channels_last)


def _bare(device: str, name: str, batch: int, inputs: Any, targets: Any) -> Callable[[int], None]:
    """Return what runs so many steps as a user would write them."""
    net, values = _network(device, name), sgd.backend.configure({})
    optimizer = sgd.optimizer(net.parameters(), values)
    peak = optimizer.param_groups[0]["lr"]
    images, labels = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
    mean, std = (torch.tensor(each, device=device).view(3, 1, 1) for each in (_MEAN, _STD))
    forward, taken = in_precision(type(net).forward, torch.device(device), "bf16"), 0

    def epochs() -> Iterator[torch.Tensor]:
        while True:
            order = torch.randperm(len(labels)).to(device)
            yield from torch.split(order[:len(order) // batch * batch], batch)

    drawn, horizon = epochs(), 2 * len(labels) // batch

    def run(steps: int) -> None:
        nonlocal taken
        for chosen in itertools.islice(drawn, steps):
            given = images.index_select(0, chosen).to(
                torch.float32, memory_format=torch.channels_last)
            given = given.mul_(_SCALE / std).sub_(mean / std)
            for group in optimizer.param_groups:
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * taken / horizon))
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(
                forward(net, given), labels.index_select(0, chosen)))
            optimizer.step()
            taken += 1

    return run


def _harnessed(device: str, name: str, batch: int, inputs: Any, targets: Any
               ) -> Callable[[int], None]:
    """Return what runs so many steps as a trial does."""
    net, place = _network(device, name), torch.device(device)
    passes = instrument(net, in_precision(type(net).forward, place, "bf16"))
    stepper = sgd.build(net, torch.nn.functional.cross_entropy, sgd.backend.configure({}),
                        World(0, 1, place, batch, 10**6))
    clock = Clock(lambda: synchronize(device))
    clock.switch("train")
    observer = Observer(stepper, net, passes, clock, CollectiveCounter(), False)
    split = Resident(inputs, targets, Conversion(
        inputs, targets, _MEAN, _STD, _SCALE, place, torch.channels_last))
    batches = split.draw(Order(len(targets), 0).slices(batch, 0, 1, device=place))

    def run(steps: int) -> None:
        for _ in range(steps):
            observer.step(next(batches))

    return run
