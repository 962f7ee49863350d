"""Writes results folders as large as anybody's: thousands of trials as the harness writes them.

Seeded and without any training: curves rise or not, as learning rates do or not. Run as a script,
``python tests/large_study.py FOLDER [TRIALS]`` makes one to measure on.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench_apts.core import store
from bench_apts.core.files import write_json
from bench_apts.core.records import (
    Audited,
    AuditPart,
    DistinctCall,
    End,
    Eval,
    Header,
    Start,
    Traffic,
)
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
    digest,
)

if TYPE_CHECKING:
    from bench_apts.core.records import Communication

LABELS = ("apts", "sgd", "adam", "nadamw", "nadamw-list", "local-adam", "zero1", "zero2", "zero3",
          "lion", "sgd[momentum=0]", "schedule-free")
FREE = ("apts", "schedule-free")
HOPELESS = "lion"
RANKS = (1, 2, 4, 8)
EVALUATIONS = 40
SEEDS = 8
PARAMETERS = 6_570

SUITE = Suite(
    name="digits", summary="8x8 handwritten digits", data=Data("digits", 300),
    model=Model("mlp", {"hidden": [64, 32]}), batch_size=64,
    budget=Budget(EVALUATIONS * 1_400, 120.0), evaluation=Evaluation(1_400, 2),
    target=Target("accuracy", "max", 0.955, Provenance("sgd", 10, 3, "mean of the weaker one")))

ENVIRONMENT: dict[str, Any] = {
    "hostname": "node-1", "os": "Debian GNU/Linux 12", "cpu": "Example CPU 9000 (x86_64)",
    "cores": 8, "memory_bytes": 2**36, "gpus": [], "gpu_driver": None, "python": "3.11.7",
    "versions": {"bench-apts": "0.1.0", "torch": "2.15.0", "torchvision": "0.29.2",
                 "deepspeed": "0.19.8", "numpy": "2.4.6", "optuna": "5.0.0"},
    "commit": "5bbceb9e622d7cea91043739fb889e9c8e2ac917", "dirty": False,
    "threads": {"OMP_NUM_THREADS": "1"}, "container": "docker", "slurm": {}}


def write(folder: Path, trials: int = 10_000) -> Path:
    """Writes a study of all ``LABELS`` at all ``RANKS``.

    Args:
        folder: The results folder.
        trials: How many at least; each optimizer at each N has equally many, ``SEEDS`` of them
            final trainings if it is tuned, and the first optimizer is reported twice.
    """
    each = -(-trials // (len(LABELS) * len(RANKS)))
    tuned = max(2, each - SEEDS)
    (folder / "trials").mkdir(parents=True)
    study = Study((SUITE,), tuple(Entry(label, label) for label in LABELS), RANKS, tuned, SEEDS, 0,
                  "cpu")
    write_json(folder / "study.json", store.StudyFile(
        study, ["bench-apts", "run"], "2026-01-02T03:04:05+00:00", ENVIRONMENT))
    for ranks, label in itertools.product(RANKS, LABELS):
        generator = np.random.default_rng([ranks, LABELS.index(label)])
        stages = ["report"] * each if label in FREE else ["tune"] * tuned + ["report"] * SEEDS
        best = 0.02 + 0.001 * LABELS.index(label)
        for number, stage in enumerate(stages):
            drawn = 10.0 ** generator.uniform(-3, 0) if stage == "tune" and number else best
            repetition = number if stage == "tune" or label in FREE else number - tuned
            spec = _trial(label, ranks, stage, repetition, drawn)
            # From half of the trials of the first optimizers to a seventh of the last ones hit.
            narrow = 2 + 3 * LABELS.index(label)
            pace = float(np.exp(-narrow * np.log10(drawn / best) ** 2))
            pace *= 0.05 if label == HOPELESS else 1.4
            _record(folder, spec, pace, generator)
            if label == LABELS[0] and repetition < SEEDS:
                _record(folder, msgspec.structs.replace(spec, twin=True), pace, generator)
    return folder


def _trial(label: str, ranks: int, stage: Any, repetition: int, rate: float) -> Trial:
    prefix = 1_000 if stage == "tune" else 9_000_000
    return Trial(
        label=label, optimizer=label, hyperparameters={"lr": rate, "momentum": 0.9},
        tuning_free=label in FREE, batch_size=64, suite=SUITE, ranks=ranks, stage=stage,
        repetition=repetition, seeds=Seeds(prefix + repetition, 2 * prefix + repetition),
        device="cpu", data_sha256="d" * 64, plugin=f"bench_apts.optimizers.{label}:backend",
        plugin_sha256="a" * 64,
        searched=Searched("random", "none", "narrow", 1, {"lr": (1e-3, 1.0)})
        if stage == "tune" else None)


def _record(folder: Path, spec: Trial, pace: float, generator: np.random.Generator) -> None:
    events: list[Any] = [
        Header(spec.run_id, "2026-01-02T03:04:05+00:00", spec, ENVIRONMENT,
               configuration=spec.configuration),
        Start(PARAMETERS, "a1" * 32, "b2" * 32, 1_197, 300, "c10d pre-hook", "gloo",
              12_928.0, 17_664.0)]
    samples = np.arange(EVALUATIONS + 1) * SUITE.evaluation.every_samples
    accuracies = np.clip(0.1 + 0.875 * (1 - np.exp(-pace * samples / 4_000))
                         + generator.normal(0, 0.004, len(samples)), 0, 1)
    second = float(generator.uniform(0.9, 1.1)) * 0.0015 * (1 + 0.3 * (spec.ranks > 1))
    for index, accuracy in enumerate(accuracies.tolist()):
        step = int(samples[index]) // 64
        train_s = step * second
        events.append(Eval(
            step, int(samples[index]), int(samples[index]) / 1_197, train_s, 0.4 + 1.2 * train_s,
            0.9 * train_s, step, step, 466_350_080 + index, None if not index else 1 - accuracy,
            {"accuracy": accuracy, "loss": 2.3 * (1 - accuracy)},
            _traffic(step, index, spec.ranks),
            {"radius": 0.1, "rho": 0.8, "accepted": 0.9} if spec.label == "apts" else {},
            float(samples[index]) * 30_592.0))
    last = events[-1]
    hit = bool((accuracies[1:] >= 0.955)[:-1].any() and (accuracies >= 0.955)[-2:].all())
    parts = {}
    for name, phase in (("setup", "warmup"), ("train", "train"), ("eval", "eval")):
        sent = sum(traffic.actual_bytes or 0 for traffic in last.comm[phase].values())
        parts[name] = AuditPart(sent, sent, 8 * (spec.ranks > 1))
    ledger = {"setup_s": 0.2, "compile_s": 0.0, "warmup_s": 0.1, "train_s": last.train_s,
              "eval_s": 0.2 * last.train_s, "log_s": 0.1, "checkpoint_s": 0.0}
    calls = [DistinctCall(phase, collective, spec.ranks, collective.upper(), "float64", None, size,
                          *_sent(size, spec.ranks), count)
             for phase, made in _calls(last.step, EVALUATIONS).items()
             for collective, (count, size) in made.items()]
    test = {"accuracy": float(accuracies[-1]) - 0.01, "loss": 0.1}
    events.append(End(
        "hit" if hit else "miss", "2026-01-02T03:04:05+00:00", sum(ledger.values()), ledger,
        last.cpu_s, last.peak_memory_bytes, last.samples, last.comm,
        test if spec.stage == "report" else None,
        digest([spec.label, spec.ranks, spec.seeds]), audit=Audited(parts=parts), calls=calls))
    (folder / "trials" / f"{spec.run_id}.jsonl").write_bytes(
        b"".join(msgspec.json.encode(event) + b"\n" for event in events))


def _calls(step: int, index: int) -> dict[str, dict[str, tuple[int, int]]]:
    """Returns the number of calls up to a step, and the bytes of each."""
    return {"eval": {"all_reduce": (2 * index, 36), "barrier": (3 * index, 0)},
            "train": {"all_reduce": (step, 4 * PARAMETERS)},
            "warmup": {"all_reduce": (4, 19_718), "barrier": (2, 0)}}


def _sent(size: int, ranks: int) -> tuple[float, int]:
    """Returns ideal and actual bytes of a call."""
    return 2 * (ranks - 1) / ranks * size, (size + 152) * (ranks > 1)


def _traffic(step: int, index: int, ranks: int) -> Communication:
    def calls(count: int, size: int) -> Traffic:
        return Traffic(count, count * size, *(count * sent for sent in _sent(size, ranks)))

    return {phase: {collective: calls(*each) for collective, each in made.items()}
            for phase, made in _calls(step, index).items()}


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
