"""What a reader must know before believing a number, derived from the records."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.meters.soundness import ledger_gap
from bench_apts.reports import cells, data_origin
from bench_apts.stats import trial_origins
from bench_apts.stats.trial_costs import hit_bracket

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.cells import ReportCell
    from bench_apts.reports.gather import Gathered

    Found = Iterator[tuple[str, str]]

_NOTABLE_S = 1.0
"""Seconds of ``build`` that are worth a line; DeepSpeed takes a few to import."""

_ABOVE_CHANCE = 0.25
"""Accuracy above that of the most frequent class that no untrained network has by chance."""

_THROTTLED = 0.05
"""Share of the readings of a GPU's sensors with clocks held down that is worth a line."""

_EDGE = 0.05
"""Share of a search range at either end that counts as its edge."""

_STATUSES = {
    "miss": "Trials that missed the target within the budget",
    "diverged": "Trials that diverged",
    "oom": "Trials that ran out of memory",
    "error": "Trials that failed",
    "timeout": "Trials that ran into the time limit before the target",
    "interrupted": "Trials that were interrupted",
    "pruned": "Trials that were pruned",
}


class Caveat(NamedTuple):
    """A short name and what it means for the reader."""

    title: str
    text: str


_GRAVEST = ("Target met by", "A start far above", "Trials of unlike", "Target of", "Few seeds",
            "Few trials", "What ", "More ranks", "Trials side by side", "CPU ranks")
"""How the titles begin of the caveats that matter most, the gravest first."""


def gravest(found: Sequence[Caveat], count: int = 3) -> list[Caveat]:
    """Return the caveats that a reader of the answer must know, the gravest first."""
    first = (next((caveat for caveat in found if caveat.title.startswith(opening)), None)
             for opening in _GRAVEST)
    return [caveat for caveat in first if caveat][:count]


def all_caveats(gathered: Gathered) -> list[Caveat]:
    """Return all caveats: about the machine, then the results, then the records."""
    return [Caveat(*found) for found in itertools.chain(
        _machine(gathered), _measurements(gathered), data_origin.measure_caveats(gathered),
        _starts(gathered.trials), data_origin.data_caveats(gathered), _results(gathered),
        _configurations(gathered), _endings(gathered.trials), _records(gathered))]


def cores(gathered: Gathered, ranks: int) -> float | None:
    """Return how many cores the smallest machine has that trials of ``ranks`` ran on."""
    cards = [r.header.environment for r in gathered.trials if r.trial.ranks == ranks]
    return cells.cores(cards or [gathered.file.environment])


def crowded(gathered: Gathered, ranks: int) -> bool:
    """Say whether ``ranks`` CPU ranks shared fewer cores, so that times measure the machine."""
    have = cores(gathered, ranks)
    return gathered.device == "cpu" and have is not None and ranks > have


def on_the_edge(cell: ReportCell) -> list[str]:
    """Name the frozen hyperparameters within a twentieth of their range from one of its ends.

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


def _cells(gathered: Gathered) -> Iterator[ReportCell]:
    return (cell for group in gathered.groups for cell in group.cells)


def _gpus(trials: Sequence[TrialRecord]) -> Found:
    """Float32 that is computed as TF32, and clocks that were held down."""
    rounded = sorted({r.trial.suite.name for r in trials
                      if r.trial.device == "cuda" and r.trial.suite.precision == "fp32"
                      and r.start and r.start.numerics.get("convolution_tf32")
                      and r.header.environment.get("switches", {}).get(
                          "NVIDIA_TF32_OVERRIDE") != "0"})
    if rounded:
        yield "Convolutions in TF32", (
            f"Convolutions of {units.listing(rounded)} multiplied float32 numbers with 10 bits of "
            "mantissa, as is torch's default on GPUs since Ampere; products of matrices did not "
            "(matmul_precision in Provenance). NVIDIA_TF32_OVERRIDE=0 computes in float32 alone.")
    slow = [(reading, r) for r in trials for reading in (r.end.gpus if r.end else None) or []
            if reading and (reading.throttled or 0) > _THROTTLED]
    if slow:
        worst = max(reading.throttled or 0 for reading, _ in slow)
        why = sorted({name for reading, _ in slow for name in reading.reasons})
        yield "GPUs with clocks held down", (
            f"In {units.plural(len({r.header.run_id for _, r in slow}), 'trial')} of "
            f"{len(trials)} a GPU ran below the clock asked for ({units.listing(why)}), in up to "
            f"{units.format_percent(worst, 0)} of the readings. Seconds there measure cooling and "
            "power limits too.")


def _machine(gathered: Gathered) -> Found:
    yield from _gpus(gathered.trials)
    if gathered.device == "cpu":
        yield "CPU ranks instead of GPUs", (
            "Each rank is a process on CPU cores that talks through gloo. Passes, samples, "
            "ideal bytes and accuracies carry over to GPUs; seconds do not.")
    too_many = [n for n in sorted(gathered.file.study.ranks) if crowded(gathered, n)]
    if too_many:
        have = min(cores(gathered, n) or 0 for n in too_many)
        yield "More ranks than cores", (
            f"At N = {units.listing([str(n) for n in too_many])} the ranks shared "
            f"{have:g} core{'s' * (have != 1)}. Times there (N is marked †) measure the "
            "machine, not the method, and are not shown; the CSV files have them.")
    shared = [r for r in gathered.trials if r.header.environment.get("beside")]
    if shared:
        most = max(r.header.environment["beside"] for r in shared)
        stages = [noun for stage, noun in (("tune", "tuning trials"),
                                           ("report", "final trainings"))
                  if any(r.trial.stage == stage for r in shared)]
        yield "Trials side by side", (
            f"{units.plural(len(shared), 'trial')} ({units.listing(stages)}) shared the machine "
            f"with up to {units.plural(most, 'other')} (--jobs). Their times are disturbed, and "
            "so are costs in seconds that they enter; passes, samples, bytes and accuracies are "
            "not.")
    nodes = {tuple(node["hostname"] for node in r.header.environment.get("nodes", []))
             for r in gathered.trials}
    for machines in sorted(names for names in nodes if len(names) > 1):
        yield "Ranks on several machines", (
            f"With N > 1 ranks were spread over {units.listing(machines)}; times include the "
            "network between these.")
    unlike = trial_origins.origin_differences(
        trial_origins.origin_cards(gathered.trials), trial_origins.SIZE_TRAITS)
    if unlike:
        yield "Trials of unlike environments", (
            f"The trials differ in {trial_origins.count_origins(unlike)}. Times and memory are "
            "not judged where trials differ at the same N, and no efficiency is worked out "
            "between such trials; samples, passes, bytes and accuracies are. Provenance lists all "
            "environments.")


def _measurements(gathered: Gathered) -> Found:
    alone = dict.fromkeys(str(group.ranks) for group in gathered.groups if not group.noise)
    if alone:
        yield "Noise unknown", (
            f"No trial was run twice at N = {units.listing([*alone])}, so nobody knows how far "
            "times scatter on this machine; small differences of time may be nothing.")
    yield from _imported(gathered.trials)
    silent = [r for r in gathered.trials if r.uncounted and not r.header.imported]
    if silent:
        yield "Bytes were not measured", (
            f"The bytes of {units.plural(len(silent), 'trial')} are not known, or not all of "
            f"them ({'; '.join(sorted({r.uncounted for r in silent}))}); no number of bytes "
            "rests on these.")
    unaudited = [r.end.audit.skipped for r in gathered.trials
                 if r.start and r.start.process_group == "gloo"
                 and r.end and r.end.audit and r.end.audit.skipped and not r.uncounted]
    if unaudited:
        yield "Bytes were not audited", (
            f"Of {units.plural(len(unaudited), 'trial')} nothing shows that all bytes passed the "
            "meter: the kernel's counts could not be compared "
            f"({'; '.join(sorted(set(unaudited)))}).")


def _imported(trials: Sequence[TrialRecord]) -> Found:
    """What other programs measured, and what their logs do not say."""
    groups: dict[tuple[str, tuple[str, ...]], list[TrialRecord]] = defaultdict(list)
    for record in trials:
        if origin := record.header.imported:
            groups[origin.format, origin.unmeasured].append(record)
    for (form, unmeasured), records in sorted(groups.items()):
        yield "Imported logs", (
            f"{units.plural(len(records), 'trial')} {'was' if len(records) == 1 else 'were'} not "
            f"run by bench-apts but read from logs (`bench-apts import {form}`). Their times are "
            "what the logs say, on whatever machine. The logs do not say, so that nothing rests "
            f"on it: {units.listing([*unmeasured, 'bytes'])}.")


def _starts(trials: Sequence[TrialRecord]) -> Found:
    """What an optimizer did before its training began, where that may change its comparison."""
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
        times = [f"{units.format_seconds(max(found))} for {label}"
                 for label, found in sorted(slow.items())]
        yield "Long set-up", (
            f"Building the optimizer took {units.listing(times)} at most. Set-up is recorded "
            "(setup_s) and is not part of times to target.")
    if trained:
        yield "Gradients before training", (
            f"{units.listing(sorted(trained))} computed gradients while being built. What was "
            "learned there costs nothing in the tables.")
    if ahead:
        yield "A start far above chance", (
            f"{units.listing(sorted(ahead))} was evaluated far above chance before the first "
            "step: the model had been trained before, so costs and times are too low.")


def _results(gathered: Gathered) -> Found:
    for suite in gathered.file.study.suites:
        origin = suite.target.provenance
        if origin.trials == 0:
            note = f" It says: {origin.note}." if origin.note else ""
            yield f"Target of {suite.name} not calibrated", (
                f"Nobody measured with trials that {units.format_goal(suite.target)} is a "
                f"sensible target.{note} Rankings can depend on it; see the lower levels.")
    untrained = Counter(record.trial.suite.name for record in gathered.trials
                        if (hit := hit_bracket(record)) and not record.evals[hit[1]].step)
    for suite_name, number in untrained.items():
        yield "Target met by the untrained model", (
            f"In {units.plural(number, 'trial')} of {suite_name} the model met the target before "
            "any training. Costs to the target are zero there, and say nothing of the "
            "optimizers; raise the target.")
    seeds = min((len(cell.seeds) for cell in _cells(gathered) if cell.seeds), default=5)
    if seeds < 5:
        yield "Few seeds", (
            f"Some medians rest on {units.plural(seeds, 'seed')}. Differences between seeds "
            "can be as large as those between optimizers.")
    draws = min((len(cell.draws) for cell in _cells(gathered) if cell.draws), default=10)
    if draws < 10:
        yield "Few trials behind the expected cost", (
            f"Some expected costs rest on {units.plural(draws, 'trial')}. "
            "Intervals of so few are wide, and only large differences can be told.")


def _configurations(gathered: Gathered) -> Found:
    varying = dict.fromkeys(cell.label for cell in _cells(gathered)
                            if cell.tuning_free and cell.varies)
    if varying:
        yield "Several configurations", (
            f"{units.listing([*varying])} needs no tuning only as long as one configuration "
            "serves everywhere; here it changed between suites or N, so the badge is withheld.")
    shared: dict[str, dict[str, None]] = defaultdict(dict)
    for cell in _cells(gathered):
        if cell.search_owner:
            shared[cell.search_owner][cell.label] = None
    for owner, labels in shared.items():
        yield "Tuning shared", (
            f"In the first tuning trial {units.listing([*labels])} took the same course as "
            f"{owner} and so took over what {owner}'s search found. Their expected cost is "
            f"that of {owner}'s trials in samples, at what a sample costs them, and they are "
            "ranked nowhere by cost. --no-share pays for a search of each.")
    for label, name in dict.fromkeys((cell.label, name) for cell in _cells(gathered)
                                     for name in on_the_edge(cell)):
        yield "Optimum at the edge", (
            f"The best {name} of {label} lies at an end of the range that was searched; a wider "
            "one may hold better, so its cost may be overstated.")
    unreported = []
    for cell in _cells(gathered):
        where = f"{cell.label} on {cell.suite.name} at N = {cell.ranks}"
        if not cell.draws:
            yield "Nothing to show", f"{where} has no trial yet."
        elif cell.tune and cell.frozen is None:
            yield "Nothing to freeze", (f"No tuning trial of {where} got as far as an evaluation, "
                                        "so there is no final training.")
        elif cell.seeds and cell.two_configurations and not cell.best_seeds:
            yield "Accuracies of the fastest configuration", (
                f"Of {where} the configuration that was best at the end of the budget was not run "
                "on fresh seeds, so its accuracies are those of the configuration that is fastest "
                "to the target. The same command again runs it.")
        elif not cell.seeds:
            unreported.append(where)
    if unreported:
        yield "No final training", (
            f"{units.listing(unreported) if len(unreported) < 4 else f'{len(unreported)} cells'} "
            f"{'has' if len(unreported) == 1 else 'have'} no report-stage trial of the frozen "
            "configuration yet.")


def _endings(trials: Sequence[TrialRecord]) -> Found:
    grouped: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in trials:
        grouped[record.end.status if record.end else "unfinished"].append(record)
    grouped.pop("hit", None)
    for status, records in sorted(grouped.items()):
        if status == "unfinished":
            yield "Unfinished trials", (
                f"{_whose(records)} had not ended when this report was made. They are billed what "
                "they recorded so far and count as misses unless they already hit.")
            continue
        alike: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
        for record in records:
            reason = record.end.reason if record.end else None
            alike[record.trial.label if reason else "", reason or ""].append(record)
        said = "; ".join(_whose(of) + (f": “{reason}”" if reason else "")
                         for (_, reason), of in sorted(alike.items()))
        yield _STATUSES[status], f"{said}. Each is billed all that it recorded."


def _records(gathered: Gathered) -> Found:
    adrift = [f"{r.header.run_id} ({r.trial.label} at N = {r.trial.ranks}, {gap:+.1%})"
              for r in gathered.trials if (gap := ledger_gap(r)) is not None]
    if adrift:
        yield "Ledgers that do not add up", (
            f"The parts miss the wall clock by more than 1 % in {units.listing(adrift)}. Believe "
            "none of the times of these trials.")
    if gathered.copies:
        yield "Copies of records", f"In this folder {gathered.copies}."
    for reason, number in sorted(gathered.left_out.items()):
        yield "Left out", (f"{units.plural(number, 'trial')} of the folder "
                           f"{'is' if number == 1 else 'are'} not in this report: {reason}.")


def _whose(records: list[TrialRecord]) -> str:
    """Count some trials: ``2 tuning trials of sgd at each N = 1, 2; 1 seed of adam at N = 2``."""
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
