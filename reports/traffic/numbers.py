"""Bytes of a step as measured, beside the formula of the method where one is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.stats import known_traffic

from ..table import Table, Value, name, number, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.stats.known_traffic import Formula

    from ..cells import Group
    from ..context import Context

_BUILT_IN = "bench_apts.optimizers."

_FORMULAS: Mapping[str, Formula] = {_BUILT_IN + plugin: formula for plugin, formula in {
    "sgd:backend": known_traffic.GRADIENT_SUM,
    "adam:backend": known_traffic.GRADIENT_SUM,
    "adam:default": known_traffic.GRADIENT_SUM,
    "nadamw:backend": known_traffic.GRADIENT_SUM,
    "nadamw:ordered": known_traffic.GRADIENT_SUM,
    "schedule_free:backend": known_traffic.GRADIENT_SUM,
    "prodigy:backend": known_traffic.GRADIENT_SUM,
    "deepspeed_zero:zero1": known_traffic.ZERO_1_2,
    "deepspeed_zero:zero2": known_traffic.ZERO_1_2,
    "deepspeed_zero:zero3": known_traffic.ZERO_3,
    "local_adam:backend": known_traffic.LOCAL_STEPS,
    "trust_region:apts": known_traffic.LOCAL_STEPS,
    "trust_region:apts_paper": known_traffic.DECOMPOSED,
    "trust_region:napts": known_traffic.DECOMPOSED,
    "trust_region:tr": known_traffic.TRUST_REGION,
}.items()}
"""By plug-in, not by name: what a user calls ``sgd`` may do anything."""


class Sent(NamedTuple):
    """What one optimizer sent in training at one N, by collective.

    Attributes:
        label: The optimizer.
        ranks: N.
        run_id: The training it was counted in.
        formula: None where none is known.
        unit: What the formula is for: ``"step"``, or ``"round"`` of local steps.
        units: How many of them there were.
        steps: Optimizer steps.
        measured: Ideal bytes sent per rank and unit.
        expected: What the formula says of the same; empty without a formula.
    """

    label: str
    ranks: int
    run_id: str
    formula: Formula | None
    unit: str
    units: int
    steps: int
    measured: Mapping[str, float]
    expected: Mapping[str, float]

    @property
    def step_bytes(self) -> float:
        """Ideal bytes sent per rank and optimizer step, over all collectives."""
        return sum(self.measured.values()) * self.units / self.steps

    @property
    def difference(self) -> float | None:
        """By what share the bytes measured differ from the formula's; None without one."""
        total = sum(self.expected.values())
        return sum(self.measured.values()) / total - 1 if total else None


def sent(groups: Sequence[Group]) -> list[Sent]:
    """Returns one training of each optimizer at each N > 1; one rank alone sends nothing."""
    found = []
    for group in groups:
        for cell in group.cells:
            if cell.communication is None or group.ranks == 1:
                continue
            record, comm = cell.communication
            if record.uncounted:
                continue
            moved = comm.get("train", {})
            steps = record.evals[-1].step if record.evals else 0
            formula = _FORMULAS.get(record.trial.plugin)
            rounds = formula is not None and formula.unit == "round"
            number = moved["all_reduce"].calls if rounds and "all_reduce" in moved else steps
            if not moved or not number or not steps:
                continue
            found.append(Sent(
                cell.label, group.ranks, record.header.run_id, formula,
                formula.unit if formula else "step", number, steps,
                {collective: traffic.ideal_bytes / number
                 for collective, traffic in sorted(moved.items())},
                formula.ideal(record.start.parameters, group.ranks)
                if formula and record.start else {}))
    return found


def table(context: Context, rows: Sequence[Sent]) -> Table:
    """The formula's bytes beside those measured, by collective."""
    lines: list[tuple[Value, ...]] = []
    breaks = set()
    for row in rows:
        breaks.add(len(lines))
        for collective in sorted({*row.measured, *row.expected}):
            measured = row.measured.get(collective, 0.0)
            expected = row.expected.get(collective)
            gap = None if expected is None else measured - expected
            lines.append((
                name(row.label, suite=context.suite.name),
                number(str(row.ranks), ranks=row.ranks),
                words(f"{row.formula.words} a {row.unit}" if row.formula else "none known",
                      formula=row.formula.words if row.formula else None, unit=row.unit),
                number(f"{row.units:,}", units=row.units),
                words(collective.replace("_", "-"), collective=collective),
                number(units.size(expected) if expected is not None else units.NONE,
                       expected_bytes=expected),
                number(units.size(measured), measured_bytes=measured),
                number(units.NONE if gap is None else _gap(gap),
                       "" if not gap or not expected else _share(gap / expected),
                       difference_bytes=gap)))
    return Table(
        "known-traffic", "Bytes against formulas",
        "Ideal bytes sent per rank in training, for one step or for one round of local steps, of "
        "one training of each optimizer. P: bytes of the parameters in float32; f = (N − 1)/N. "
        "DeepSpeed pads: stages 1 and 2 as the formula does, stage 3 each tensor, which the "
        "formula leaves out. apts sends 24 bytes more in rounds that judge a point. A collective "
        "without a formula's number, such as the broadcast of a model's buffers, comes on top.",
        (("Optimizer", ""), ("N", "ranks"), ("Formula", "per rank"), ("Times", "steps or rounds"),
         ("Collective", ""), ("Formula", "bytes"), ("Measured", "bytes"), ("Difference", "")),
        tuple(lines), frozenset(breaks))


def _gap(gap: float) -> str:
    return "0" if abs(gap) < 1e-6 else ("+" if gap > 0 else "−") + units.size(abs(gap))


def _share(share: float) -> str:
    return "" if abs(share) < 1e-9 else (
        ("+" if share > 0 else "−") + units.digits(100 * abs(share)) + units.THIN + "%")
