"""Writes results folders through the store, event by event, and builds sections from them.

``populate`` writes a small but realistic study, ``populate_searched`` one with a searched learning
rate and judged steps, ``Folder`` trials whose costs are whole seconds, for numbers by hand.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import msgspec
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
    Searched,
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


RANKS = (1, 2, 4)
SEARCHED = Searched("random", "none", "narrow", 1, {"lr": (1e-3, 1.0), "momentum": (0.5, 0.99)})

DRAWS = {0.002: None, 0.01: 0.6, 0.03: 1.3, 0.1: 1.0, 0.2: 0.8, 0.97: 0.0}
"""Learning rate and how fast sgd learns with it; None: too slow, 0: it diverges."""

STARTS = {"apts": 1e-3, "apts[start=0.01]": 1e-2, "apts[start=0.1]": 0.1}


def judged(curve, at_bound=0.0, accepted=0.75):
    """Gives a curve the diagnostics of a method that judges each fifth of its 40 steps."""
    found = []
    for index, event in enumerate(curve):
        step = 40 * index
        found.append(msgspec.structs.replace(
            event, step=step, forwards=50 * index, backwards=40 * index,
            diagnostics={} if index == 0 else {
                "radius": 0.1, "rho": 0.5 + index / 100, "accepted": accepted, "judged": 0.2,
                "at_bound": at_bound, "local_passes": 60.0 * index,
                "predicted_reduction": 0.1 / index, "actual_reduction": 0.05 / index}))
    return found


def populate_searched(folder, *, edge=False, at_bound=0.0, accepted=0.75):
    """Writes a study with a searched learning rate, given radii and judged steps.

    Args:
        folder: Results folder.
        edge: Whether at N = 4 the largest learning rate is the best.
        at_bound: Share of judged steps after which apts' radius lay at a bound.
        accepted: Share of judged steps that it kept.
    """
    entries = (Entry("sgd", "sgd"), *(Entry(label, "apts", {"start": start})
                                      for label, start in STARTS.items()))
    plan = Study((SUITE,), entries, RANKS, len(DRAWS), 2, 0, "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", store.StudyFile(
        plan, ["bench-apts", "run"], "2026-01-02T03:00:00+00:00", ENVIRONMENT))
    shape = {"step_s": 0.0015, "backwards": 1, "every": 1}
    for ranks in RANKS:
        best = 0.97 if edge and ranks == 4 else 0.03
        for number, (lr, pace) in enumerate(DRAWS.items()):
            spec = trial("sgd", ranks, "tune", number, searched=SEARCHED,
                                 hyperparameters={"lr": lr, "momentum": 0.9})
            if lr == best:
                pace = 1.6
            if pace is None:
                write(folder, spec, evals(spec, pace=0.1, until=5, **shape),
                              "timeout")
            elif not pace:
                write(folder, spec, evals(spec, pace=0.01, until=4, **shape),
                              "diverged", reason="loss is not finite")
            else:
                curve = evals(spec, pace=pace, **shape)
                write(folder, spec, curve, "hit")
        for number in range(2):
            spec = trial("sgd", ranks, "report", number,
                                 hyperparameters={"lr": best, "momentum": 0.9})
            write(folder, spec, evals(spec, pace=1.6, **shape), "hit", test=0.95)
        for label, start in STARTS.items():
            for number in range(2):
                spec = trial(
                    label, ranks, "report", number, optimizer="apts", tuning_free=True,
                    hyperparameters={"start": start, "judge": True})
                slow = start == 0.1
                curve = evals(spec, pace=0.02 if slow else 0.9, step_s=0.004,
                                      backwards=1, every=8)
                write(folder, spec, judged(curve, at_bound, accepted),
                              "miss" if slow else "hit", test=0.9)
    return folder


SECONDS_SUITE = msgspec.structs.replace(SUITE, evaluation=Evaluation(1_400, 1))
HIT, MISS = 0.95, 0.5

# Seconds at which each tuning trial hits, or the negative of what it spent in vain: the pool that
# docs/statistics.md works out.
POOL = (2, 3, -5, -10)
FREE = (4, 4)


class Folder:
    """A results folder of trials that are evaluated each second and hit, or end, on one."""

    def __init__(self, path, labels=("adam", "apts"), ranks=(1,), **changes):
        self.path, self.ranks = path, ranks
        path.mkdir()
        self.study = msgspec.structs.replace(
            Study((SECONDS_SUITE,), tuple(Entry(label, label) for label in labels), ranks, 4, 2,
                  0, "cpu"),
            **changes)
        write_json(path / "study.json", store.StudyFile(
            self.study, ["bench-apts", "run"], "2026-01-02T03:00:00+00:00", ENVIRONMENT))

    def add(self, label, stage, seconds, ranks=1, like=None, status=None, values=None, flops=1e6,
            pace=1.0, sent=None, test=None, first=0, **changes):
        """Writes one trial for each of ``seconds``; ``like`` is the draw that it repeats.

        A second of training takes ``pace`` seconds, and ``sent`` bytes where they are given. The
        first one has the number ``first``.
        """
        for number, length in enumerate(seconds, first):
            tried = number if like is None else like
            spec = trial(label, ranks, stage, number, **{
                "suite": self.study.suites[0], "device": self.study.device, "hyperparameters": (
                    {"radius": 0.1} if label == "apts" else {"lr": 0.01 * 2.0**tried}), **changes})
            accuracies = values or [MISS] * abs(length) + [HIT if length > 0 else MISS]
            evals = [Eval(
                step=second, samples=1_400 * second, epoch=0.0, train_s=pace * second,
                wall_s=2.0 * second, cpu_s=float(second), forwards=second, backwards=3 * second,
                peak_memory_bytes=1, train_loss=1.0, comm={} if sent is None else {
                    "train": {"all_reduce": Traffic(second, int(sent * second), sent * second)}},
                validation={"accuracy": accuracy, "loss": 1 - accuracy},
                flops=None if flops is None else flops * second)
                for second, accuracy in enumerate(accuracies)]
            write(self.path, spec, evals,
                          status or ("hit" if accuracies[-1] == HIT else "miss"), test=test)
        return self

    def bill(self, *arguments, **options):
        from bench_apts.reports.gather import gather
        from bench_apts.reports.tuning_bill import study_bill

        return study_bill(gather(self.path), *(arguments or ["core_seconds"]),
                          **{"replay": False, **options})

    def contexts(self):
        return contexts(self.path)


def contexts(folder):
    """What a report's sections are built from: the context of each suite of a study."""
    from bench_apts.reports import caveats
    from bench_apts.reports.curve_data import curve_frame
    from bench_apts.reports.figure_style import looks
    from bench_apts.reports.gather import gather
    from bench_apts.reports.section_parts import Context

    gathered = gather(folder)
    plan = gathered.file.study
    return [Context(
        gathered, suite, suite.name,
        tuple(group for group in gathered.groups if group.suite == suite),
        looks([entry.label for entry in plan.entries]),
        {n: caveats.crowded(gathered, n) for n in plan.ranks}, curve_frame(gathered.groups))
        for suite in plan.suites]


def build_section(section, folder):
    """Builds the section of a study's first suite."""

    return section.part(contexts(folder)[0])


def figures(part):
    """Returns a part's figures by the end of their names, without the prefix of the suite."""
    return {figure.slug.removeprefix("digits-"): figure for figure in part.figures}


def listings(part):
    """Returns a part's tables by name, without those behind figures."""
    from bench_apts.reports.section_parts import Listing

    return {block.table.name: block.table for block in part.every_block
            if isinstance(block, Listing)}


def columns(table):
    """Returns a table's plain numbers by optimizer and N."""
    return {(row["optimizer"], row["ranks"]): row for row in table.records()}
