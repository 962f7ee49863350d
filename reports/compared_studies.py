"""Two studies, or two optimizers of one: what of B is worse than A beyond noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench_apts.core import units
from bench_apts.core.errors import UserError, unknown
from bench_apts.core.spec import canonical
from bench_apts.reports.compared_measures import Measure, MeasureNoise, completed_trials, measures
from bench_apts.stats import trial_origins
from bench_apts.stats.verdict import RULE, decide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.gather import Gathered
    from bench_apts.stats.timing_noise import Noise
    from bench_apts.stats.verdict import Decision

_ROUNDING = 1e-9  # sums of floats in another order

ComparisonVerdict = Literal["worse", "better", "equal", "tolerated", "not told apart",
                            "cannot be told", "not judged", "neither hit"]


class CellPair(NamedTuple):
    """A cell of A and the one of B that it is compared with, each with its group."""

    first: ReportCell
    second: ReportCell
    groups: tuple[CellGroup, CellGroup]

    @property
    def where(self) -> str:
        """The optimizer, the suite and N."""
        label = self.first.label
        if self.second.label != label:
            label = f"{self.second.label} against {label}"
        return f"{label} on {self.first.suite.name} at N = {self.first.ranks}"


class ComparedRow(NamedTuple):
    """One measure of one pair of cells, judged.

    Attributes:
        match: What is compared.
        measure: By what.
        adjusted: The p-value after Holm's correction; 1 where nothing was tested.
        verdict: Whether B is worse or better.
    """

    match: CellPair
    measure: Measure
    adjusted: float
    verdict: ComparisonVerdict


@dataclass(frozen=True)
class StudyComparison:
    """A comparison.

    Attributes:
        names: What A and B are.
        rows: In the order of A's study.
        notes: What was left out, and what the numbers cannot say.
        blind: Whether there are too few trials to show any difference in costs, however large.
    """

    names: tuple[str, str]
    rows: tuple[ComparedRow, ...]
    notes: tuple[str, ...]
    blind: bool = False

    @property
    def worse(self) -> list[ComparedRow]:
        """What is worse in B."""
        return [row for row in self.rows if row.verdict == "worse"]

    @property
    def better(self) -> list[ComparedRow]:
        """What is better in B."""
        return [row for row in self.rows if row.verdict == "better"]


def compare_studies(first: Gathered, second: Gathered, names: tuple[str, str],
                    factor: float) -> StudyComparison:
    """Compare the optimizers, suites and N that two studies share.

    Args:
        first: A.
        second: B.
        names: How to call them.
        factor: Ratio up to which B is not worse.

    Raises:
        UserError: They ran on other devices, or share nothing that has trials.
    """
    if first.device != second.device:
        raise UserError(f"{names[0]} ran on {first.device}, {names[1]} on {second.device}; "
                        "compare studies of one device")
    mine, theirs = ({(canonical(cell.suite), cell.ranks, cell.label): (cell, group)
                     for group in gathered.groups for cell in group.cells
                     if completed_trials(cell.records)} for gathered in (first, second))
    changed = _changed(first, second)
    notes = [f"{name}: {study.copies}" for name, study in zip(names, (first, second), strict=True)
             if study.copies]
    notes += changed.values()
    matches = []
    for key, (one, group) in mine.items():
        if key not in theirs:
            continue
        two, other = theirs[key]
        match = CellPair(one, two, (group, other))
        if len({r.trial.data_sha256 for r in (*one.records, *two.records)}) == 1:
            matches.append(match)
        else:
            notes.append(f"{match.where} is not compared: its data are not the same")
    for name, here, there in ((names[0], mine, theirs), (names[1], theirs, mine)):
        alone: dict[tuple[str, str], list[str]] = {}
        for key, (cell, _) in here.items():
            if key not in there and cell.suite.name not in changed:
                alone.setdefault((cell.label, cell.suite.name), []).append(str(cell.ranks))
        if alone:
            notes.append(f"only {name} has " + units.listing(
                [f"{label} on {suite} at N = {units.listing(ranks)}"
                 for (label, suite), ranks in alone.items()]))
    if not matches:
        raise UserError(f"{names[0]} and {names[1]} share no optimizer with trials on the same "
                        f"suite, data and N{': ' if notes else ''}{'; '.join(notes)}; "
                        "run both with the same --suite, --gpus and --optimizers")
    return _judged(names, matches, notes, factor, first.device)


def compare_optimizers(gathered: Gathered, first: str, second: str,
                       factor: float) -> StudyComparison:
    """Compare two optimizers of a study on every suite and at every N where both have trials.

    Args:
        gathered: The study.
        first: A's label.
        second: B's label.
        factor: Ratio up to which B is not worse.

    Raises:
        UserError: The study has no such optimizer, or they were never run side by side.
    """
    labels = [entry.label for entry in gathered.file.study.entries]
    for label in (first, second):
        if label not in labels:
            raise unknown("optimizer of this study", label, labels)
    matches, notes = [], [gathered.copies] if gathered.copies else []
    for group in gathered.groups:
        found = {cell.label: cell for cell in group.cells if completed_trials(cell.records)}
        if first in found and second in found:
            matches.append(CellPair(found[first], found[second], (group, group)))
        else:
            missing = [label for label in dict.fromkeys((first, second)) if label not in found]
            notes.append(f"{units.listing(missing)} on {group.suite.name} at N = {group.ranks} "
                         "has no trial that ended")
    if not matches:
        raise UserError(f"{first} and {second} have no suite and N where both have trials: "
                        f"{'; '.join(notes)}; `bench-apts run` with the study's arguments goes "
                        "on where it stopped")
    return _judged((first, second), matches, notes, factor, gathered.device)


def _changed(first: Gathered, second: Gathered) -> dict[str, str]:
    """Say of suites by name that they have another definition in either study."""
    theirs = {suite.name: suite for suite in second.file.study.suites}
    found = {}
    for suite in first.file.study.suites:
        other = theirs.get(suite.name, suite)
        fields = [name for name in suite.__struct_fields__
                  if getattr(suite, name) != getattr(other, name)]
        if fields:
            found[suite.name] = (f"{suite.name} is not the same suite in both, they differ in "
                                 f"{units.listing(fields)}")
    return found


def _judged(names: tuple[str, str], matches: Sequence[CellPair], notes: list[str], factor: float,
            device: str) -> StudyComparison:
    found: list[tuple[CellPair, Measure]] = []
    for match in matches:
        noises, why = _noises(match)
        where = f"{match.first.suite.name} at N = {match.first.ranks}"
        notes += [f"{where}: {note}" for note in why]
        rows, more = measures(match.first, match.second, noises, device)
        found += [(match, row) for row in rows]
        notes += [f"{match.where}: {note}" for note in more]
        drawn = {id(r): r for cell in match[:2] for r in cell.records}
        waiting = len(drawn) - len(completed_trials([*drawn.values()]))
        if waiting:
            notes.append(f"{match.where}: {units.plural(waiting, 'trial')} without an end "
                         "left out")
    family = {index: evidence for index, (_, measure) in enumerate(found)
              if (evidence := measure.evidence)}
    decisions = dict(zip(family, decide([*family.values()]), strict=True))
    judged = tuple(
        ComparedRow(match, measure, decisions[index].adjusted if index in decisions else 1.0,
                    _verdict(measure, decisions.get(index), factor))
        for index, (match, measure) in enumerate(found))
    powerless = _power([*decisions.values()])
    return StudyComparison(names, judged, tuple(dict.fromkeys([*notes, *powerless])),
                           bool(powerless))


def _noises(match: CellPair) -> tuple[MeasureNoise, list[str]]:
    """Return how far apart equal trials were in either study, and what to say of it."""
    if unlike := _unlike(match):
        return MeasureNoise(unlike=True), ["times and memory are not judged: the trials ran on "
                                           f"several machines or settings: {unlike}"]
    times = [group.noise for group in match.groups if group.noise]
    peaks = [group.memory_noise for group in match.groups if group.memory_noise]
    return (MeasureNoise(_worst(times), _worst(peaks)),
            [] if times else ["no trial was run twice, so the noise of times is unknown"])


def _worst(found: Sequence[Noise]) -> Noise | None:
    return max(found, key=lambda each: each.of_mean(1), default=None)


def _unlike(match: CellPair) -> str:
    """Say in what environments differ, or "": two studies may be of two versions of bench-apts."""
    one, two = (cell.records for cell in match[:2])
    within = match.groups[0] is match.groups[1]
    return (trial_origins.unlike(one) or trial_origins.unlike(two)
            or trial_origins.unlike((*one, *two), () if within else trial_origins.CODE_TRAITS))


def _power(decisions: Sequence[Decision]) -> list[str]:
    """Say so where no difference could have been shown, however large."""
    if not decisions or any(each.verdict != "cannot be told" for each in decisions):
        return []
    needed = math.ceil(1 + math.log2(len(decisions) / RULE.alpha))
    return [f"too few trials to tell costs apart, however much they differ: to correct for "
            f"{units.plural(len(decisions), 'comparison')} takes {needed} pairs each "
            f"(--seeds {needed}, and --trials {needed} where tuned)"]


def _verdict(measure: Measure, decision: Decision | None, factor: float) -> ComparisonVerdict:
    effect = measure.effect
    if math.isnan(effect):
        return "neither hit"
    if math.isinf(measure.noise):
        return "not judged"
    if measure.kind == "exact":
        if abs(effect - 1) <= _ROUNDING:
            return "equal"
        limit = factor * (1 + _ROUNDING)
        return "worse" if effect > limit else "better" if effect < 1 else "tolerated"
    if decision is None:
        return "equal"
    if not decision.differs:
        return "cannot be told" if decision.verdict == "cannot be told" else "not told apart"
    if (decision.verdict == "more") == measure.more_is_better:
        return "better"
    return "tolerated" if measure.kind == "ratio" and effect <= factor else "worse"
