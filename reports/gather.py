"""From a results folder to cells: what belongs together; what does not is counted, never mixed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import msgspec

from bench_apts.core import store, trial_files
from bench_apts.core.configuration import competitor_label
from bench_apts.core.errors import UserError
from bench_apts.core.spec import canonical
from bench_apts.reports.cells import CellGroup, ReportCell
from bench_apts.stats.shared_search import follows
from bench_apts.stats.trial_costs import select_best, select_fastest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Entry, Suite, Trial
    from bench_apts.core.store import StudyFile

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Gathered:
    """A study with its trials in place.

    Attributes:
        file: The content of ``study.json``.
        groups: One for each suite and N, in the study's order.
        trials: The trials that the report is made of, by run id.
        left_out: Why trials of the folder were left out, and how many for each reason.
        copies: Which files were left out as copies of others, in a sentence; or "".
    """

    file: StudyFile
    groups: tuple[CellGroup, ...]
    trials: tuple[TrialRecord, ...]
    left_out: dict[str, int]
    copies: str = ""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.file.study.device


def gather(folder: Path) -> Gathered:
    """Read a results folder.

    Raises:
        UserError: There is no study, a file is broken, or no trial of the study has ended.
    """
    read = store.read_trial_files(folder)
    file, records = _rename_labels(store.read_study(folder), read.records)
    study = file.study
    left_out: dict[str, int] = {}

    def keep(records: Iterable[TrialRecord], reason: str,
             wanted: Callable[[TrialRecord], bool]) -> list[TrialRecord]:
        kept, dropped = [], 0
        for record in records:
            if wanted(record):
                kept.append(record)
            else:
                dropped += 1
        if dropped:
            left_out[reason] = left_out.get(reason, 0) + dropped
        return kept

    suites = {canonical(suite) for suite in study.suites}
    labels = {entry.label for entry in study.entries}
    records = keep(records, "another suite, or another version of it",
                   lambda r: canonical(r.trial.suite) in suites)
    records = keep(records, "another device, N or optimizer than the study asks for",
                   lambda r: (r.trial.device == study.device and r.trial.ranks in study.ranks
                              and r.trial.label in labels))
    if not study.trials:
        records = keep(records, "tuning trials, while the study asks for none",
                       lambda r: r.trial.stage != "tune")
    records = keep(records, "tuning trials of another sampler, pruner or search space",
                   lambda r: r.trial.searched is None or (
                       r.trial.searched.sampler, r.trial.searched.pruner,
                       r.trial.searched.space) == (study.sampler, study.pruner, study.space))
    data = _current(records, lambda r: canonical(r.trial.suite), lambda r: r.trial.data_sha256,
                    {canonical(suite): file.data.get(suite.data.name) for suite in study.suites})
    records = keep(records, "older data of another fingerprint",
                   lambda r: r.trial.data_sha256 == data[canonical(r.trial.suite)])
    code = _current(records, lambda r: (canonical(r.trial.suite), r.trial.label),
                    lambda r: r.trial.plugin_sha256,
                    {(canonical(suite), label): sha256 for suite in study.suites
                     for label, sha256 in file.code.items()})
    records = keep(records, "older code of the optimizer",
                   lambda r: (r.trial.plugin_sha256
                              == code[canonical(r.trial.suite), r.trial.label]))

    placed: dict[tuple[bytes, int, str], list[TrialRecord]] = {}
    for record in records:
        trial = record.trial
        placed.setdefault((canonical(trial.suite), trial.ranks, trial.label), []).append(record)
    used: list[TrialRecord] = []
    groups: list[CellGroup] = []
    for suite in study.suites:
        for ranks in sorted(study.ranks):
            every = {entry.label: placed.get((canonical(suite), ranks, entry.label), [])
                     for entry in study.entries}
            cells = [_cell(suite, ranks, entry, every, file.untuned.get(entry.label))
                     for entry in study.entries]
            groups.append(CellGroup(suite, ranks, tuple(cells)))
            for cell in cells:
                shown = {id(r) for r in (
                    *cell.tune, *cell.checks, *cell.seeds, *cell.twins, *cell.best_seeds)}
                used += keep(every[cell.label], "another configuration than the frozen ones",
                             lambda r, shown=shown: id(r) in shown)  # type: ignore[misc]
    varying = {label for label in labels if len({
        cell.configuration for group in groups for cell in group.cells
        if cell.label == label and cell.configuration}) > 1}
    groups = [replace(group, cells=tuple(replace(cell, varies=cell.label in varying)
                                         for cell in group.cells)) for group in groups]
    if not any(record.end for record in used):
        raise UserError(f"{folder} has no finished trial of its study yet; "
                        "`bench-apts run` with the same arguments goes on where it stopped")
    used.sort(key=lambda r: (r.header.run_id, r.path))
    return Gathered(file, tuple(groups), tuple(used), left_out,
                    trial_files.left_out(read.copies))


def _tuning(records: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    return tuple(r for r in sorted(records, key=_order)
                 if r.trial.stage == "tune" and not r.trial.tuning_free)


def _order(record: TrialRecord) -> tuple[int, str]:
    return record.trial.repetition, record.header.run_id


def _search_owner(own: Iterable[TrialRecord], every: Mapping[str, Sequence[TrialRecord]]) -> str:
    """Return the label of the competitor whose search served this one, "" if it was its own."""
    for record in own:
        label = record.trial.searched.follows if record.trial.searched else ""
        if label in every and any(follows(record, other) for other in _tuning(every[label])):
            return label
    return ""


def _cell(suite: Suite, ranks: int, entry: Entry, every: Mapping[str, Sequence[TrialRecord]],
          untuned: str | None) -> ReportCell:
    """Find the frozen configurations and the seeds that belong to each.

    Args:
        suite: The training problem.
        ranks: World size.
        entry: The competitor.
        every: Trials of all competitors here, by label.
        untuned: The configuration that the last command ran without tuning, if it is known.
    """
    mine = every[entry.label]
    own = _tuning(mine)
    owner = _search_owner(own, every)
    tune = _tuning(every[owner]) if owner else own
    report = sorted((r for r in mine if r.trial.stage == "report"), key=_order)
    frozen, best = select_fastest(tune), select_best(tune)
    best_seeds: list[TrialRecord] = []
    if frozen is not None and best is not None:
        if best.trial.hyperparameters != frozen.trial.hyperparameters:
            best_seeds = [r for r in report if not r.trial.twin
                          and r.trial.hyperparameters == best.trial.hyperparameters]
        report = [r for r in report if r.trial.hyperparameters == frozen.trial.hyperparameters]
    elif tune:
        report = []
    elif report:
        current = _current(report, lambda _: "", lambda r: r.trial.configuration,
                           {"": untuned})[""]
        report = [r for r in report if r.trial.configuration == current]
    return ReportCell(
        suite, entry.label, entry.optimizer, ranks, any(r.trial.tuning_free for r in mine), tune,
        frozen, tuple(r for r in report if not r.trial.twin),
        tuple(r for r in report if r.trial.twin), owner, own if owner else (), best,
        tuple(best_seeds))


def _current(records: Sequence[TrialRecord], key: Callable[[TrialRecord], K],
             value: Callable[[TrialRecord], V], recorded: Mapping[K, V | None]) -> dict[K, V]:
    """Return for each key the value that ``study.json`` records, if any trial has it.

    Where none has, or older versions wrote the file, it is the most recent trial's.
    """
    ordered = sorted(records, key=lambda r: (r.header.time, r.header.run_id))
    there = {(key(record), value(record)) for record in records}
    return {key(record): value(record) for record in ordered} | {
        name: wanted for name, wanted in recorded.items()
        if wanted is not None and (name, wanted) in there}


def _rename_labels(file: StudyFile, records: Sequence[TrialRecord]
                   ) -> tuple[StudyFile, list[TrialRecord]]:
    """Call every competitor of a study by its backend's name, as new studies do.

    Older versions called a plug-in file by its path.
    Records under a label that the study does not have stay as they are. So does everything where
    two competitors would get one name.

    Args:
        file: The content of ``study.json``.
        records: The folder's records.
    """
    names = {r.trial.label: r.trial.optimizer for r in records}
    entries = file.study.entries
    optimizers = {e.optimizer: names.get(e.label, e.optimizer) for e in entries}
    if len(set(optimizers.values())) < len(optimizers):
        return file, [*records]
    new = {e.label: competitor_label(e.label, optimizers[e.optimizer]) for e in entries}
    if all(label == other for label, other in new.items()):
        return file, [*records]
    change = msgspec.structs.replace
    study = change(file.study, entries=tuple(change(e, label=new[e.label]) for e in entries))
    file = change(file, study=study, code=_renamed(file.code, new),
                  untuned=_renamed(file.untuned, new))
    return file, [change(r, header=change(r.header, trial=_trial(r.trial, new)))
                  for r in records]


def _renamed(values: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    return {new.get(label, label): value for label, value in values.items()}


def _trial(trial: Trial, new: Mapping[str, str]) -> Trial:
    change, searched = msgspec.structs.replace, trial.searched
    if searched:
        searched = change(searched, follows=new.get(searched.follows, searched.follows))
    return change(trial, label=new.get(trial.label, trial.label), searched=searched)
