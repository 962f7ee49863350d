"""Builds trial records in memory for the tests of bench_apts.stats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts.core.records import End, Eval, Header, Traffic, TrialRecord
from bench_apts.core.spec import (
    Budget,
    Data,
    Evaluation,
    Model,
    Provenance,
    Seeds,
    Suite,
    Target,
    Trial,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def suite(direction: str = "max", value: float = 0.9, consecutive: int = 2) -> Suite:
    metric = "accuracy" if direction == "max" else "loss"
    return Suite("toy", "", Data("toy", 10), Model("mlp"), 8, Budget(1_000, 60.0),
                 Evaluation(100, consecutive),
                 Target(metric, direction, value, Provenance("none", 0, 0)))  # type: ignore[arg-type]


def record(values: Sequence[float], *, status: str | None = "miss", ranks: int = 2,
           repetition: int = 0, every: int = 100, problem: Suite | None = None,
           end: dict[str, Any] | None = None, counted: bool = True) -> TrialRecord:
    """One trial whose k-th evaluation stands at k·every samples, k seconds, 10·k backwards.

    It has then sent 1,000·k bytes in training (and 7 more in evaluation) per rank, used 3·k CPU
    seconds and 200·k joules on all ranks together, and done 5·k operations, if they were counted.
    """
    problem = problem or suite()
    trial = Trial("sgd", "sgd", {"lr": 0.1}, False, 8, problem, ranks, "tune", repetition,
                  Seeds(1, 2), "cpu", "d", "p", "s")
    evals = [Eval(step=10 * k, samples=every * k, epoch=0.0, train_s=float(k), wall_s=5.0 + 2 * k,
                  cpu_s=0.0, forwards=20 * k, backwards=10 * k, peak_memory_bytes=1,
                  train_loss=None, validation={problem.target.metric: value},
                  comm={"train": {"all_reduce": Traffic(k, 1_000 * k, 600.0 * k),
                                  "broadcast": Traffic(k, 1_000 * k, 400.0 * k)},
                        "eval": {"all_reduce": Traffic(1, 7, 7.0)}},
                  flops=5.0 * k if counted else None, all_ranks_cpu_s=3.0 * k,
                  energy_j=200.0 * k)
             for k, value in enumerate(values)]
    fields: dict[str, Any] = {"status": status, "time": "", "wall_s": 0.0, **(end or {})}
    return TrialRecord(Header("id", "", trial, {}), None, evals,
                       None if status is None else End(**fields), "x.jsonl")
