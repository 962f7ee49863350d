"""Checks of whole trials, and of the harness beside a bare loop, on a device."""

from __future__ import annotations

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
    from collections.abc import Callable, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.selftest.device_checks import Finding

_FIRST = ("sgd", "adam", "apts", "zero2", "fsdp2")
"""Optimizers that are tried first."""

_TRIAL_S = 30.0
"""Seconds that a short trial may take."""

_MOST_RATIO = 1.1
"""Most that the harness may take of a bare loop's time."""


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
    until = time.monotonic() + float(os.environ[LIMIT]) - _TRIAL_S
    there = torch.cuda.device_count() if device == "cuda" else 1
    names = [*dict.fromkeys([*_FIRST, *selection.select("all").selectors])]
    found = _trials(device, names, "tabular", (
        "suite.budget.samples=1280", "suite.evaluation.every_samples=640",
        "suite.data.options.rows=4000"), sorted({1, there}), _TRIAL_S, until)
    if not found:
        raise CheckSkipped("no time was left for it")
    failed = {name: reason for name, (reason, _) in found.items() if reason}
    if failed:
        raise CheckFailed("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return (f"{len(found)} of {len(names) * len({1, there})} short trials, as time allowed",
            {"trials": list(found)})


def check_cifar10_resnet18(device: str) -> Finding:
    """SGD and APTS on CIFAR-10, cut short: how fast they go, and how far they come."""
    suite = "cifar10-resnet18" if device == "cuda" else "tabular"
    found = _trials(device, ("sgd", "apts"), suite, (
        f"suite.budget.seconds={30 if device == 'cuda' else 1}",), (1,), 90.0)
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
    """Steps of ResNet-18 through the harness beside the same steps of a bare loop, interleaved."""
    name, batch, steps = ("resnet18", 128, 25) if device == "cuda" else ("cnn-small", 16, 2)
    samples = batch * steps
    drawn = np.random.default_rng(0)
    inputs = drawn.integers(0, 256, (samples, 3, 32, 32), dtype=np.uint8)
    targets = drawn.integers(0, 10, samples)
    blocks = {kind: make(device, name, batch, inputs, targets)
              for kind, make in (("bare", _bare), ("harness", _harnessed))}
    times: dict[str, list[float]] = {kind: [] for kind in blocks}
    for repetition in range(5):
        for kind, run in blocks.items():
            synchronize(device)
            began = time.perf_counter()
            run(steps)
            synchronize(device)
            if repetition:  # the first one warms up
                times[kind].append(time.perf_counter() - began)
    best = {kind: min(found) / steps for kind, found in times.items()}
    ratio = best["harness"] / best["bare"]
    numbers = {"ratio": ratio, **{f"{kind}_step_s": value for kind, value in best.items()}}
    require(ratio <= _MOST_RATIO or device == "cpu",
            f"a step takes {ratio:.3f} times what a bare loop's does")
    return f"a step takes {ratio:.3f} times {best['bare'] * 1000:.2f} ms", numbers


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
    forward = in_precision(type(net).forward, torch.device(device), "bf16")

    def run(steps: int) -> None:
        order = torch.randperm(len(labels)).to(device)
        for step in range(steps):
            chosen = order[step * batch:(step + 1) * batch]
            given = images.index_select(0, chosen).to(
                torch.float32, memory_format=torch.channels_last)
            given = given.mul_(_SCALE / std).sub_(mean / std)
            for group in optimizer.param_groups:
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(
                forward(net, given), labels.index_select(0, chosen)))
            optimizer.step()

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
