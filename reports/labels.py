"""Labels of records that older versions wrote, which called a plug-in file by its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from bench_apts.core.spec import called

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial
    from bench_apts.core.store import StudyFile


def named(file: StudyFile, records: Sequence[TrialRecord]
          ) -> tuple[StudyFile, list[TrialRecord]]:
    """Call every competitor of a study by its backend's name, as new studies do.

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
    new = {e.label: called(e.label, optimizers[e.optimizer]) for e in entries}
    if all(label == other for label, other in new.items()):
        return file, [*records]
    study = replace(file.study, entries=tuple(replace(e, label=new[e.label]) for e in entries))
    file = replace(file, study=study, code=_renamed(file.code, new),
                   untuned=_renamed(file.untuned, new))
    return file, [replace(r, header=replace(r.header, trial=_trial(r.trial, new)))
                  for r in records]


def _renamed(values: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    return {new.get(label, label): value for label, value in values.items()}


def _trial(trial: Trial, new: Mapping[str, str]) -> Trial:
    searched = trial.searched and replace(
        trial.searched, follows=new.get(trial.searched.follows, trial.searched.follows))
    return replace(trial, label=new.get(trial.label, trial.label), searched=searched)
