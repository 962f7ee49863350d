"""Writes a small but realistic results folder through the store, event by event."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core import store
from bench_apts.core.files import write_json
from bench_apts.core.records import End, Eval, Header, Start, Traffic
from bench_apts.core.spec import (
    Budget,
    Data,
    Entry,
    Evaluation,
    Model,
    Provenance,
    Seeds,
    Study,
    Suite,
    Target,
    Trial,
)

if TYPE_CHECKING:
    from pathlib import Path

NASTY = "<script>alert('$x$ & y')</script>"
"""A label that must come out as text wherever it is shown."""

SUITE = Suite(
    name="digits", summary="Small <b>digits</b>", data=Data("digits", 300),
    model=Model("mlp", {"hidden": [64, 32]}), batch_size=64, budget=Budget(28_000, 120.0),
    evaluation=Evaluation(1_400, 2),
    target=Target("accuracy", "max", 0.94, Provenance("none", 0, 0, "chosen by hand")))

NUMERICS: dict[str, bool | str] = {
    "deterministic_algorithms": False, "matmul_precision": "highest"}
ENVIRONMENT: dict[str, Any] = {
    "hostname": "bench-1", "os": "Linux 6.1", "cpu": "Example CPU 9000", "cores": 2,
    "memory_bytes": 16_000_000_000, "gpus": [], "python": "3.11.2", "torch": "2.15.0",
    "deepspeed": None, "commit": "0123abc", "dirty": True}

# How fast each optimizer learns, its seconds and backward passes per step, steps per all-reduce.
PACE = {"apts": (0.9, 0.004, 3, 8), "sgd": (1.3, 0.0015, 1, 1), "adam": (1.1, 0.0019, 1, 1),
        NASTY: (0.05, 0.0024, 1, 1)}
PARAMETERS = 6_570
PLUGINS = {"apts": "bench_apts.optimizers.trust_region:apts"}
"""What is installed of them; the others are known by their records alone."""


def trial(label: str, ranks: int = 1, stage: str = "tune", repetition: int = 0,
          **changes: Any) -> Trial:
    """Returns a trial with plausible hashes and seeds."""
    free = label == "apts"
    values: dict[str, Any] = {
        "label": label, "optimizer": "adam" if label == NASTY else label,
        "hyperparameters": ({"radius": 0.1} if free else
                            {"lr": 0.01 * 2.0**repetition if stage == "tune" else 0.02,
                             "momentum": 0.9}),
        "tuning_free": free, "batch_size": 64, "suite": SUITE, "ranks": ranks, "stage": stage,
        "repetition": repetition, "seeds": Seeds(100 + repetition, 200 + repetition),
        "device": "cpu", "data_sha256": "d" * 64, "plugin_sha256": "p" * 64}
    values |= changes
    return Trial(**{"plugin": PLUGINS.get(values["optimizer"], "builtin"), **values})


def evals(spec: Trial, *, pace: float, step_s: float, backwards: int, every: int,
          until: int | None = None) -> list[Eval]:
    """Returns a rising, slightly noisy curve of evaluations from step 0 to the budget."""
    noise = np.random.default_rng([spec.seeds.data, spec.ranks, len(spec.label)])
    found = []
    points = spec.suite.budget.samples // spec.suite.evaluation.every_samples + 1
    for index in range(points if until is None else until):
        samples = index * spec.suite.evaluation.every_samples
        step = samples // (spec.batch_size * backwards)
        accuracy = min(0.1 + 0.87 * (1 - math.exp(-pace * samples / 4_000))
                       + float(noise.normal(0, 0.006)), 1.0)
        calls = step // every
        payload = 4 * PARAMETERS * calls
        share = (spec.ranks - 1) / spec.ranks
        comm = {} if spec.ranks == 1 else {
            "train": {"all_reduce": Traffic(calls, payload, 2 * share * payload)},
            "eval": {"all_reduce": Traffic(index, 16 * index, 2 * share * 16 * index)}}
        seconds = step * step_s * (1.3 if spec.ranks > 1 else 1.0)
        found.append(Eval(
            step=step, samples=samples, epoch=samples / 1_197, train_s=seconds,
            wall_s=1.0 + 1.1 * seconds, cpu_s=seconds, forwards=step * (backwards + 1),
            backwards=step * backwards, peak_memory_bytes=300_000_000 + 1_000_000 * spec.ranks,
            train_loss=1 - accuracy, validation={"accuracy": accuracy, "loss": 1 - accuracy},
            comm=comm, diagnostics={"radius": 0.1 * 1.1**min(index, 9), "rho": 0.8,
                                    "accepted": 1 - index / 40} if backwards > 1 else {},
            flops=6.0 * PARAMETERS * samples, tensor_bytes=310_000_000))
    return found


def write(folder: Path, spec: Trial, curve: list[Eval], status: str | None, *,
          time: str = "2026-01-02T03:04:05+00:00", reason: str | None = None,
          test: float | None = None, started: bool = True, seconds: float = 0.0) -> Path:
    """Writes one trial's file; no end event where ``status`` is None."""
    path = folder / "trials" / f"{spec.run_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    store.append(path, Header(spec.run_id, time, spec, ENVIRONMENT))
    if started:
        store.append(path, Start(PARAMETERS, "a1" * 32, "b2" * 32, 1_197, 300,
                                 "c10d pre-hook", "gloo", numerics=NUMERICS))
    for event in curve:
        store.append(path, event)
    if status is not None:
        last = curve[-1] if curve else None
        train_s = last.train_s if last else seconds
        ledger = {"setup_s": 0.6, "compile_s": 0.0, "warmup_s": 0.2, "train_s": train_s,
                  "eval_s": 0.1, "log_s": 0.02, "checkpoint_s": 0.0}
        store.append(path, End(
            status, time, sum(ledger.values()), ledger if last or seconds else {},
            train_s, 310_000_000, last.samples if last else 0, last.comm if last else {},
            None if test is None else {"accuracy": test, "loss": 1 - test}, "f" * 64, reason))
    return path


def study(ranks: tuple[int, ...] = (1, 2), trials: int = 3, seeds: int = 2,
          suites: tuple[Suite, ...] = (SUITE,)) -> Study:
    """Returns the study that ``populate`` fills."""
    return Study(suites, tuple(Entry(label, "adam" if label == NASTY else label)
                               for label in PACE), ranks, trials, seeds, 0, "cpu")


def populate(folder: Path, plan: Study | None = None) -> Path:
    """Writes a whole study; ``NASTY`` never hits, one sgd draw diverges, one adam draw fails.

    One adam seed at the largest N is unfinished.
    """
    plan = plan or study()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", store.StudyFile(
        plan, ["bench-apts", "run", "--suite", "digits", "--gpus", "1,2"],
        "2026-01-02T03:00:00+00:00", ENVIRONMENT))
    for suite in plan.suites:
        for ranks in plan.ranks:
            for label, (pace, step_s, backwards, every) in PACE.items():
                shape = {"step_s": step_s, "backwards": backwards, "every": every}
                for number in range(0 if label == "apts" else plan.trials):
                    spec = trial(label, ranks, "tune", number, suite=suite)
                    if label == "sgd" and number == 2:
                        write(folder, spec, evals(spec, pace=0.01, until=4, **shape), "diverged",
                              reason="loss 812.5 is above 10 times the initial one")
                    elif label == "adam" and number == 2:
                        write(folder, spec, [], "error", reason="rank 1: <b>boom</b>",
                              started=False)
                    else:
                        # The second draw is the good one: the one that report trials repeat.
                        factor = {0: 0.7, 1: 1.0}.get(number, 0.5)
                        _finish(folder, spec, evals(spec, pace=factor * pace, **shape))
                for number in range(plan.seeds):
                    spec = trial(label, ranks, "report", number, suite=suite)
                    if label == "adam" and number == 1 and ranks == max(plan.ranks):
                        write(folder, spec, evals(spec, pace=pace, until=6, **shape), None)
                    else:
                        _finish(folder, spec, evals(spec, pace=pace, **shape))
    return folder


def _finish(folder: Path, spec: Trial, curve: list[Eval]) -> None:
    values = [event.validation["accuracy"] >= 0.94 for event in curve]
    hit = any(a and b for a, b in itertools.pairwise(values))
    write(folder, spec, curve, "hit" if hit else "miss",
          test=curve[-1].validation["accuracy"] - 0.01 if spec.stage == "report" else None)
