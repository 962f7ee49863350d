"""What a reader must know before believing a number, derived from the records.

What an optimizer did before its training began, where that may change its comparison.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.meters.soundness import ledger_gap
from bench_apts.reports import cells, data_origin
from bench_apts.stats.trial_costs import hit_bracket
from bench_apts.stats.trial_origins import (
    SIZE_TRAITS,
    count_origins,
    origin_cards,
    origin_differences,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.cells import ReportCell
    from bench_apts.reports.gather import Gathered

_NOTABLE_S = 1.0
"""Seconds of ``build`` that are worth a line; DeepSpeed takes a few to import."""

_ABOVE_CHANCE = 0.25
"""Accuracy above that of the most frequent class that no untrained network has by chance."""


def start_caveats(trials: Sequence[TrialRecord]) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each caveat about what preceded training."""
    slow: defaultdict[str, list[float]] = defaultdict(list)
    trained: set[str] = set()
    ahead: set[str] = set()
    for record in trials:
        start, label = record.start, record.trial.label
        if start is None:
            continue
        if start.build_s is not None and start.build_s > _NOTABLE_S:
            slow[label].append(start.build_s)
        if start.build_backwards:
            trained.add(label)
        accuracy = record.evals[0].validation.get("accuracy") if record.evals else None
        if (start.chance is not None and accuracy is not None and record.evals[0].step == 0
                and accuracy > start.chance + _ABOVE_CHANCE):
            ahead.add(label)
    if slow:
        yield "Long set-up", (
            "Building the optimizer took "
            + units.listing([f"{units.format_seconds(max(found))} for {label}"
                             for label, found in sorted(slow.items())])
            + " at most. Set-up is recorded (setup_s) and is not part of times to target.")
    if trained:
        yield "Gradients before training", (
            f"{units.listing(sorted(trained))} computed gradients while being built. What was "
            "learned there costs nothing in the tables.")
    if ahead:
        yield "A start far above chance", (
            f"{units.listing(sorted(ahead))} was evaluated far above chance before the first "
            "step: the model had been trained before, so costs and times are too low.")


_WORDS = {
    "miss": "missed the target within the budget",
    "diverged": "diverged",
    "oom": "ran out of memory",
    "error": "failed",
    "timeout": "ran into the time limit before the target",
    "interrupted": "were interrupted",
    "pruned": "were pruned",
}


_EDGE = 0.05
"""Share of a search range at either end that counts as its edge."""


class Caveat(NamedTuple):
    """A short name and what it means for the reader."""

    title: str
    text: str


def cores(gathered: Gathered, ranks: int) -> float | None:
    """Returns how many cores the smallest machine has that trials of ``ranks`` ran on."""
    cards = [r.header.environment for r in gathered.trials if r.trial.ranks == ranks]
    return cells.cores(cards or [gathered.file.environment])


def crowded(gathered: Gathered, ranks: int) -> bool:
    """Says whether ``ranks`` CPU ranks shared fewer cores, so that times measure the machine."""
    have = cores(gathered, ranks)
    return gathered.device == "cpu" and have is not None and ranks > have


def all_caveats(gathered: Gathered) -> list[Caveat]:
    """Writes all caveats: about the machine, then the results, then the records."""
    begun = (Caveat(*found) for found in (*data_origin.measure_caveats(gathered),
                                          *start_caveats(gathered.trials),
                                          *data_origin.data_caveats(gathered)))
    return [*_machine(gathered), *begun, *_results(gathered), *_records(gathered)]


def on_the_edge(cell: ReportCell) -> list[str]:
    """Names the frozen hyperparameters within a twentieth of their range from one of its ends.

    The range is measured on the log scale where it spans more than a factor of ten.
    """
    searched = cell.frozen.trial.searched if cell.frozen else None
    if cell.frozen is None or searched is None:
        return []
    found = []
    for name, (low, high) in searched.ranges.items():
        value = cell.frozen.trial.hyperparameters[name]
        assert isinstance(value, int | float)
        place = ((math.log(value / low) / math.log(high / low)) if low > 0 and high > 10 * low
                 else (value - low) / (high - low))
        if not _EDGE < place < 1 - _EDGE:
            found.append(name)
    return found


def _machine(gathered: Gathered) -> list[Caveat]:
    found = []
    study = gathered.file.study
    if gathered.device == "cpu":
        found.append(Caveat(
            "CPU ranks instead of GPUs",
            "Each rank is a process on CPU cores that talks through gloo. Passes, samples, "
            "ideal bytes and accuracies carry over to GPUs; seconds do not."))
    too_many = [n for n in sorted(study.ranks) if crowded(gathered, n)]
    if too_many:
        have = min(cores(gathered, n) or 0 for n in too_many)
        found.append(Caveat(
            "More ranks than cores",
            f"At N = {units.listing([str(n) for n in too_many])} the ranks shared "
            f"{have:g} core{'s' * (have != 1)}. Times there (N is marked †) measure the "
            "machine, not the method, and are not shown; the CSV files have them."))
    beside = [r for r in gathered.trials if r.header.environment.get("beside")]
    if beside:
        most = max(r.header.environment["beside"] for r in beside)
        stages = [noun for stage, noun in (("tune", "tuning trials"),
                                           ("report", "final trainings"))
                  if any(r.trial.stage == stage for r in beside)]
        found.append(Caveat(
            "Trials side by side",
            f"{units.plural(len(beside), 'trial')} ({units.listing(stages)}) shared the machine "
            f"with up to {units.plural(most, 'other')} (--jobs). Their times are disturbed, and "
            "so are costs in seconds that they enter; passes, samples, bytes and accuracies are "
            "not."))
    spread = sorted({tuple(m["hostname"] for m in r.header.environment["nodes"])
                     for r in gathered.trials if len(r.header.environment.get("nodes", [])) > 1})
    for machines in spread:
        found.append(Caveat(
            "Ranks on several machines",
            f"With N > 1 ranks were spread over {units.listing(machines)}; times include the "
            "network between these."))
    if unlike := origin_differences(origin_cards(gathered.trials), SIZE_TRAITS):
        found.append(Caveat(
            "Trials of unlike environments",
            f"The trials differ in {count_origins(unlike)}. Times and memory are not judged where "
            "trials differ at the same N, and no efficiency is worked out between such trials; "
            "samples, passes, bytes and accuracies are. Provenance lists all environments."))
    alone = dict.fromkeys(str(group.ranks) for group in gathered.groups if not group.noise)
    if alone:
        found.append(Caveat(
            "Noise unknown",
            f"No trial was run twice at N = {units.listing([*alone])}, so nobody knows how far "
            "times scatter on this machine; small differences of time may be nothing."))
    silent = [r for r in gathered.trials if r.uncounted]
    if silent:
        found.append(Caveat(
            "Bytes were not measured",
            f"The bytes of {units.plural(len(silent), 'trial')} are not known, or not all of "
            f"them ({'; '.join(sorted({r.uncounted for r in silent}))}); no number of bytes "
            "rests on these."))
    unaudited = [r for r in gathered.trials if r.start and r.start.process_group == "gloo"
                 and r.end and r.end.audit and r.end.audit.skipped and not r.uncounted]
    if unaudited:
        reasons = sorted({r.end.audit.skipped for r in unaudited if r.end and r.end.audit})
        found.append(Caveat(
            "Bytes were not audited",
            f"Of {units.plural(len(unaudited), 'trial')} nothing shows that all bytes passed the "
            f"meter: the kernel's counts could not be compared ({'; '.join(reasons)})."))
    return found


def _results(gathered: Gathered) -> list[Caveat]:
    found = []
    study = gathered.file.study
    for suite in study.suites:
        origin = suite.target.provenance
        if origin.trials == 0:
            note = f" It says: {origin.note}." if origin.note else ""
            found.append(
                Caveat(
                    f"Target of {suite.name} not calibrated",
                    f"Nobody measured with trials that {units.format_goal(suite.target)} is a "
                    f"sensible target.{note} Rankings can depend on it; see the lower levels.",
                )
            )
    found += _untrained(gathered)
    seeds = [len(cell.seeds) for group in gathered.groups for cell in group.cells if cell.seeds]
    if seeds and min(seeds) < 5:
        found.append(Caveat(
            "Few seeds",
            f"Some medians rest on {units.plural(min(seeds), 'seed')}. Differences between seeds "
            "can be as large as those between optimizers."))
    draws = [len(cell.draws) for group in gathered.groups for cell in group.cells if cell.draws]
    if draws and min(draws) < 10:
        found.append(Caveat(
            "Few trials behind the expected cost",
            f"Some expected costs rest on {units.plural(min(draws), 'trial')}. "
            "Intervals of so few are wide, and only large differences can be told."))
    moved = dict.fromkeys(cell.label for group in gathered.groups for cell in group.cells
                          if cell.tuning_free and cell.moved)
    if moved:
        found.append(Caveat(
            "Several configurations", f"{units.listing([*moved])} needs no tuning only as long as "
            "one configuration serves everywhere; here it changed between suites or N, so the "
            "badge is withheld."))
    shared: dict[str, dict[str, None]] = defaultdict(dict)
    for cell in (cell for group in gathered.groups for cell in group.cells):
        if cell.leader:
            shared[cell.leader][cell.label] = None
    for leader, labels in shared.items():
        found.append(Caveat(
            "Tuning shared",
            f"In the first tuning trial {units.listing([*labels])} took the same course as "
            f"{leader} and so took over what {leader}'s search found. Their expected cost is "
            f"that of {leader}'s trials in samples, at what a sample costs them, and they are "
            "ranked nowhere by cost. --no-share pays for a search of each."))
    edges = dict.fromkeys(
        (cell.label, name) for group in gathered.groups for cell in group.cells
        for name in on_the_edge(cell))
    for label, name in edges:
        found.append(Caveat(
            "Optimum at the edge", f"The best {name} of {label} lies at an end of the range that "
            "was searched; a wider one may hold better, so its cost may be overstated."))
    for group in gathered.groups:
        for cell in group.cells:
            where = f"{cell.label} on {cell.suite.name} at N = {cell.ranks}"
            if not cell.draws:
                found.append(Caveat("Nothing to show", f"{where} has no trial yet."))
            elif cell.tune and cell.frozen is None:
                found.append(Caveat("Nothing to freeze", f"No tuning trial of {where} got as "
                                    "far as an evaluation, so there is no final training."))
            elif cell.seeds and cell.two and not cell.best_seeds:
                found.append(Caveat(
                    "Accuracies of the fastest configuration", f"Of {where} the configuration "
                    "that was best at the end of the budget was not run on fresh seeds, so its "
                    "accuracies are those of the configuration that is fastest to the target. "
                    "The same command again runs it."))
            elif not cell.seeds:
                found.append(Caveat("No final training", f"{where} has no report-stage trial of "
                                    "its frozen configuration yet."))
    return found


def _untrained(gathered: Gathered) -> list[Caveat]:
    """Name the suites whose target some trial met before its first step."""
    found = Counter(record.trial.suite.name for record in gathered.trials
                    if (hit := hit_bracket(record)) and not record.evals[hit[1]].samples)
    return [Caveat(
        "Target met by the untrained model",
        f"In {units.plural(number, 'trial')} of {suite} the model met the target before any "
        "training. Costs to the target are zero there, and say nothing of the optimizers; raise "
        "the target.") for suite, number in found.items()]


def _records(gathered: Gathered) -> list[Caveat]:
    found = []
    grouped: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in gathered.trials:
        if record.end is None:
            grouped["unfinished"].append(record)
        elif record.end.status != "hit":
            grouped[record.end.status].append(record)
    for status, records in sorted(grouped.items()):
        if status == "unfinished":
            found.append(Caveat("Unfinished trials", (
                f"{_whose(records)} had not ended when this report was made. They are billed what "
                "they recorded so far and count as misses unless they already hit.")))
            continue
        alike: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
        for record in records:
            reason = record.end.reason if record.end else None
            alike[record.trial.label if reason else "", reason or ""].append(record)
        told = "; ".join(_whose(of) + (f": “{reason}”" if reason else "")
                         for (_, reason), of in sorted(alike.items()))
        found.append(Caveat(
            f"Trials that {_WORDS[status]}" if status != "error" else "Trials that failed",
            f"{told}. Each is billed all that it recorded."))
    adrift = [(record, gap) for record in gathered.trials
              if (gap := ledger_gap(record)) is not None]
    if adrift:
        found.append(Caveat(
            "Ledgers that do not add up",
            "The parts miss the wall clock by more than 1 % in "
            + units.listing([f"{r.header.run_id} ({r.trial.label} at N = {r.trial.ranks}, "
                             f"{gap:+.1%})" for r, gap in adrift])
            + ". Believe none of the times of these trials."))
    if gathered.copies:
        found.append(Caveat("Copies of records", f"In this folder {gathered.copies}."))
    for reason, number in sorted(gathered.left_out.items()):
        found.append(Caveat("Left out", f"{units.plural(number, 'trial')} of the folder "
                            f"{'is' if number == 1 else 'are'} not in this report: {reason}."))
    return found


def _whose(records: list[TrialRecord]) -> str:
    """Counts some trials: ``2 tuning trials of sgd at each N = 1, 2; 1 seed of adam at N = 2``."""
    counts: Counter[tuple[str, str, str, int]] = Counter(
        (r.trial.suite.name, r.trial.label, r.trial.stage, r.trial.ranks) for r in records)
    one_suite = len({suite for suite, *_ in counts}) == 1
    where: dict[tuple[str, str, str, int], list[str]] = defaultdict(list)
    for (suite, label, stage, ranks), number in sorted(counts.items()):
        where[suite, label, stage, number].append(str(ranks))
    return "; ".join(
        f"{units.plural(number, 'tuning trial' if stage == 'tune' else 'seed')} of {label} at "
        f"{'each ' if len(ranks) > 1 else ''}N = {', '.join(ranks)}"
        + ("" if one_suite else f" on {suite}")
        for (suite, label, stage, number), ranks in where.items())
