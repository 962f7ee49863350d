"""What the ranks of short trainings saw, and where it differs that must be equal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_apts.core.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench_apts.core.observations import RankLog, SeenTraining, Stage
    from bench_apts.plugins.optimizer_contract import TrafficFormula

STAGES: tuple[Stage, ...] = (
    "plain", "repeated", "cleared", "resumed", "warmed", "unequal", "convolution")
"""The trainings of an examination in their order."""

_NOTED = 0.1
"""Share by which bytes may differ from a formula that says in a note what it leaves out."""


@dataclass(frozen=True)
class ExaminedRanks:
    """What the ranks of one launch saw.

    Attributes:
        ranks: Their number N.
        logs: By rank.
        failure: Why the launch ended early; "" where it did not.
        stage: What was being done then.
        refused: Whether the backend refused the network, by an error that says why.
    """

    ranks: int
    logs: Sequence[RankLog]
    failure: str = ""
    stage: Stage = "end"
    refused: bool = False

    def trainings(self, stage: Stage) -> list[SeenTraining] | None:
        """Return a training as each rank saw it; None if one of them did not finish it."""
        found = [seen for log in self.logs if (seen := log.training(stage)) is not None]
        return found if len(found) == self.ranks else None

    def finished(self, *but: Stage) -> Iterator[tuple[Stage, list[SeenTraining]]]:
        """Yield the trainings that all ranks finished, except ``but``."""
        for stage in STAGES:
            if stage not in but and (seen := self.trainings(stage)):
                yield stage, seen


def differences(
    trainings: Sequence[SeenTraining], moved: bool
) -> Iterator[tuple[str, str]]:
    """Yield where the ranks of a training first differ that must be equal, and in what.

    Args:
        trainings: Of all ranks.
        moved: Whether other weights are evaluated than are trained, which then may differ.
    """
    for number, counts in enumerate(zip(*(each.steps for each in trainings), strict=False), 1):
        where = f"after step {number}"
        for name, values in (("agreed", {each.agreed for each in counts}),
                             ("total_samples", {each.total_samples for each in counts})):
            if len(values) > 1:
                yield where, f"the ranks report different values of {name}"
                return
        prints = {each.weights[number - 1] for each in trainings}
        if counts[0].agreed and len(prints) > 1 and not moved:
            yield where, "the ranks' weights differ though they report agreed=True"
            return
    for number, pairs in enumerate(zip(*(each.evaluated for each in trainings), strict=False)):
        for place, name in enumerate(("weights", "buffers")):
            if len({pair[place] for pair in pairs}) > 1:
                yield f"at evaluation {number}", f"the ranks' {name} differ in evaluation_model()"
                return


def unequal_courses(
    seen: ExaminedRanks, one: Stage, other: Stage, remedy: str
) -> Iterator[str] | None:
    """Compare two trainings that must be equal to the bit.

    Args:
        seen: What was seen.
        one: A training.
        other: One that began not later.
        remedy: What to say after the number of the first step that differs.

    Returns:
        What to say; None where they were not both finished.
    """
    mine, others = seen.trainings(one), seen.trainings(other)
    if mine is None or others is None:
        return None
    firsts = [place for a, b in zip(mine, others, strict=True)
              if (place := _first_difference(a, b)) is not None]
    return iter(()) if not firsts else iter((f"from step {min(firsts)} on, {remedy}",))


def _first_difference(one: SeenTraining, whole: SeenTraining) -> int | None:
    """Return the first step, from 1, at which a training is not as another that began earlier."""
    tail = slice(one.begun - whole.begun, None)
    pairs = zip(one.losses, whole.losses[tail], one.weights, whole.weights[tail],
                one.steps, whole.steps[tail], strict=False)
    for number, (a, b, *others) in enumerate(pairs, one.begun + 1):
        if a.hex() != b.hex() or others[0] != others[1] or others[2] != others[3]:
            return number
    if len(one.losses) != len(whole.losses[tail]):
        return one.begun + min(len(one.losses), len(whole.losses[tail])) + 1
    if one.values[-1].hex() != whole.values[-1].hex() or one.evaluated[-1] != whole.evaluated[-1]:
        return one.begun + len(one.losses)  # sharded weights have no fingerprint to compare
    return None


def unreported(ranks: int, trainings: Sequence[SeenTraining]) -> Iterator[str]:
    """Yield what of a training was counted and not reported, by its ranks."""
    from bench_apts.trial.contract_checks import require_true

    made = sum(each.reported.samples for each in trainings)
    try:
        require_true("", made, sum(each.counted.samples for each in trainings), *(
            max(getattr(each.counted, name) - getattr(each.reported, name) for each in trainings)
            for name in ("forwards", "backwards")))
    except ContractError as error:
        yield str(error)
        return
    for number, counts in enumerate(zip(*(each.steps for each in trainings), strict=False), 1):
        total, samples = counts[0].total_samples, sum(each.samples for each in counts)
        claimed = counts[0].samples * ranks if total is None else total
        if claimed != samples:
            yield (f"step {number} reports {claimed} samples of all ranks and {samples} on the "
                   "single ones: report total_samples where ranks process different numbers")
            return


def wrong_bytes(
    formula: TrafficFormula, ranks: int, training: SeenTraining
) -> Iterator[str]:
    """Yield how the bytes of one rank's steps or rounds are not those of the formula.

    All must be; where a note says that something is left out, the lower quartile may differ a
    little: most may send more.
    """
    units = [(number, sent) for number, sent in enumerate(training.sent, 1)
             if sent or formula.unit == "step"]
    yield from _wrong_units(formula, formula.ideal(training.parameters, ranks, formula.first),
                            units[: formula.first])
    yield from _wrong_units(formula, formula.ideal(training.parameters, ranks),
                            units[formula.first :])


def _wrong_units(
    formula: TrafficFormula, ideal: Mapping[str, float],
    units: list[tuple[int, dict[str, float]]],
) -> Iterator[str]:
    """Yield the first of some units whose bytes are not the ideal ones."""
    expected = {name: sent for name, sent in ideal.items() if sent}
    if formula.note:
        names = sorted({name for _, sent in units for name in sent})
        units = [(0, {name: sorted(sent.get(name, 0) for _, sent in units)[len(units) // 4]
                      for name in names})] if units else []
    for number, sent in units:
        slack = _NOTED if formula.note else 1e-9
        if expected.keys() != sent.keys() or not all(
                math.isclose(sent[name], expected[name], rel_tol=slack) for name in expected):
            which = f"step {number}" if number else f"one in four {formula.unit}s"
            yield (f"{which} sent {_traffic(sent)} per rank and {formula.words} is "
                   f"{_traffic(expected)}: correct Backend.traffic, or send what it says")
            return


def _traffic(sent: dict[str, float]) -> str:
    return " + ".join(
        f"{number:,.0f} B ({name})" for name, number in sorted(sent.items())) or "0 B"


def unusual_parameters(training: SeenTraining) -> Iterator[str]:
    """Yield what went wrong on one rank with 4-D, frozen and tied parameters."""
    if not all(map(math.isfinite, [*training.losses, *training.values])):
        yield "the loss of a small convolution is not finite at the default hyperparameters"
    if training.moved:
        yield (f"frozen parameters changed ({', '.join(training.moved)}): leave out those whose "
               "requires_grad is False, of weight decay too")
    if training.untied:
        yield "two layers shared one parameter and no longer do: do not replace parameters"
