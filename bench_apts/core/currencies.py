"""The table of currencies: what costs are counted in, how each is read, written and shown.

Statistics, tables, figures and options iterate over ``CURRENCIES``. To add a currency, add its
key to ``Currency`` and its row to the table; if trials do not record it yet, add a field to
``records.Eval`` and set it in ``trial/trial_run.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench_apts.core import units
from bench_apts.core.records import method_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_apts.core.records import End, Eval, TrialRecord

Currency = Literal["samples", "flops", "gradient_evaluations", "wire_bytes", "energy_j", "cpu_s",
                   "train_s", "wall_s", "core_seconds"]

_HYPHEN = "\u2011"  # does not break, so that core-s stays on one line


class AxisText(NamedTuple):
    """How the learning curves show a currency on their horizontal axis.

    Attributes:
        column: Its column in ``curves.csv``.
        slug: In names of figures.
        words: Below the axis.
        noun: What follows a number in a sentence, with a space in front.
        head: Head of its column, two lines.
    """

    column: str
    slug: str
    words: str
    noun: str
    head: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class CurrencyRow:
    """One currency. Every currency is cumulative: it never decreases in the course of a trial.

    Attributes:
        title: Head of its column in tables.
        noun: What is counted, in a sentence; without it, seconds of the device's processors.
        words: The currency in titles of figures.
        form: Formats a value where a heading says already what it counts.
        processor: Whose seconds are counted, by device, as in ``core-s``; None for others.
        suffix: Unit that follows a number, where ``form`` writes none.
        field: The counter of ``records.Eval`` that it equals; "" where it is computed.
        source: The counter that it is computed from, if it is one.
        read: Reads it from an evaluation of so many ranks, where it is computed. NaN: unknown.
        read_end: Reads what the end of a trial knows of it, if anything.
        countable: Whether a trial of the harness can have counted it.
        applies: Whether it means anything on a device and a number of ranks.
        is_time: It does not compare between environments.
        is_clock: It passes equally fast for all trials, and on more ranks than cores it measures
            the machine.
        in_costs: Whether the table of expected costs shows it by default.
        in_ratios: Whether the table of cost ratios does.
        compared: Name and verb under which ``compare`` lists it; None: not listed.
        axis: How learning curves show it; None: not at all.
    """

    title: str
    words: str
    form: Callable[[float], str]
    noun: str = ""
    processor: Callable[[str], str] | None = None
    suffix: str = ""
    field: str = ""
    source: str = ""
    read: Callable[[Eval, int], float] | None = None
    read_end: Callable[[End, int], float] | None = None
    countable: Callable[[TrialRecord], bool] = lambda _: True
    applies: Callable[[str, int], bool] = lambda _device, _ranks: True
    is_time: bool = False
    is_clock: bool = False
    in_costs: bool = True
    in_ratios: bool = False
    compared: tuple[str, str] | None = None
    axis: AxisText | None = None

    def measured(self, record: TrialRecord) -> bool:
        """Whether a trial measured it at all."""
        return self.countable(record) and record.measures(self.field or self.source)

    def at(self, event: Eval, ranks: int) -> float:
        """Return what had been spent at an evaluation of ``ranks`` ranks; NaN where unknown."""
        if self.read is not None:
            return self.read(event, ranks)
        value = getattr(event, self.field)
        return math.nan if value is None else float(value)


def _all_cpu_seconds(event: Eval, ranks: int) -> float:
    """Return the CPU seconds of all ranks; older records of several ranks have no such sum."""
    if event.all_ranks_cpu_s is not None:
        return event.all_ranks_cpu_s
    return event.cpu_s if ranks == 1 else math.nan


def _ledger_seconds(end: End, _ranks: int = 1) -> float:
    """Return the training seconds in the ledger, which older records call ``train``."""
    return end.ledger.get("train_s", end.ledger.get("train", 0.0))


CURRENCIES: dict[Currency, CurrencyRow] = {
    "samples": CurrencyRow(  # of all ranks together
        title="Samples", noun="samples", words="samples", suffix="samples",
        form=units.format_count, field="samples", read_end=lambda end, _: float(end.samples),
        in_ratios=True, compared=("samples", "needs {} the samples"),
        axis=AxisText("samples", "samples", "samples, all ranks together", " samples",
                       ("Samples", "all ranks"))),
    "flops": CurrencyRow(  # of all ranks together; unknown in records of before they were counted
        title="FLOPs", noun="FLOPs", words="FLOPs", suffix="FLOPs",
        form=units.format_count, field="flops", in_ratios=True),
    "gradient_evaluations": CurrencyRow(  # backward passes of the busiest rank
        title="Gradient evaluations", noun="gradients", words="gradient evaluations",
        form=units.format_count, field="backwards",
        compared=("gradient evaluations", "needs {} the gradient evaluations"),
        axis=AxisText("backwards", "gradients", "gradient evaluations of the busiest rank",
                       " gradient evaluations", ("Gradients", "evaluations"))),
    "wire_bytes": CurrencyRow(  # ideal bytes that one rank sends for the method
        title="Bytes", noun="bytes", words="ideal wire bytes per rank", form=units.format_size,
        read=lambda event, _: method_bytes(event.comm),
        read_end=lambda end, _: method_bytes(end.comm),
        countable=lambda record: not record.uncounted, applies=lambda _, ranks: ranks > 1,
        in_ratios=True, compared=("wire bytes", "sends {} the bytes"),
        axis=AxisText("wire_bytes", "bytes", "ideal wire bytes sent per rank", " sent per rank",
                       ("Bytes", "sent per rank"))),
    "energy_j": CurrencyRow(  # of all ranks' GPUs together, in training
        title="Energy", noun="joules", words="energy", form=units.format_count, suffix="J",
        field="energy_j", applies=lambda device, _: device == "cuda", is_time=True,
        in_ratios=True),
    "cpu_s": CurrencyRow(  # of all ranks together, in training
        title="CPU time", noun="CPU-seconds", words="CPU time", form=units.format_long_seconds,
        processor=lambda _: "CPU", source="cpu_s",
        read=_all_cpu_seconds,
        applies=lambda device, _: device == "cpu", is_time=True, in_ratios=True),
    "train_s": CurrencyRow(
        title="Training time", noun="seconds of training", words="training time",
        form=units.format_seconds, field="train_s", read_end=_ledger_seconds,
        is_time=True, is_clock=True, in_costs=False, compared=("time", "takes {} the time"),
        axis=AxisText("train_s", "seconds", "training time", "", ("Training", "time"))),
    "wall_s": CurrencyRow(
        title="Wall time", noun="seconds on the wall clock", words="wall time",
        form=units.format_seconds, field="wall_s", read_end=lambda end, _: end.wall_s,
        is_time=True, is_clock=True),
    "core_seconds": CurrencyRow(  # N times train_s: GPU-seconds on CUDA
        title="Processor time", words="processor time", form=units.format_long_seconds,
        processor=units.unit_of, source="train_s", read=lambda event, ranks: ranks * event.train_s,
        read_end=lambda end, ranks: ranks * _ledger_seconds(end),
        is_time=True, is_clock=True, in_costs=False, in_ratios=True),
}
"""All currencies, from what depends least on the machine to what depends most on it. A value is
NaN where a trial did not count it, which says *unknown*; estimators refuse it."""

TIME_CURRENCIES: frozenset[Currency] = frozenset(
    key for key, row in CURRENCIES.items() if row.is_time)
"""Currencies that do not compare between environments."""


def headline(device: str) -> Currency:
    """Return the currency that comparisons lead with on a device.

    On CUDA these are GPU-seconds: each rank has a device of its own. Ranks on CPUs share cores
    with one another and with whatever else runs, so that their seconds measure the machine;
    samples count every pass over a sample, and see a larger minibatch.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    return "core_seconds" if device == "cuda" else "samples"


def currency_noun(currency: Currency, device: str = "cpu") -> str:
    """Return what a currency counts, in words: ``samples``, ``core-seconds``."""
    return CURRENCIES[currency].noun or f"{units.unit_of(device)}-seconds"


def format_cost(currency: Currency, value: float, device: str = "cpu") -> str:
    """Format a cost with its unit."""
    row = CURRENCIES[currency]
    if row.processor:
        return units.format_long_seconds(value, f"{row.processor(device)}{_HYPHEN}")
    return f"{row.form(value)}{units.THIN}{row.suffix}" if row.suffix else row.form(value)
