"""Joins results folders of one study into a new one; the folders themselves stay as they are."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core import store, trial_files
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_json
from bench_apts.core.spec import Study, canonical
from bench_apts.study.optuna_search import STORAGE, merge_storages
from bench_apts.trial import checkpoint_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_apts.core.records import TrialRecord

_SHORTENED = frozenset({"timeout", "oom", "pruned"})
"""Statuses that end a trial for what is not in its specification: time, memory, other trials."""

_MAX_NAMED = 5


@dataclass(frozen=True)
class MergeSummary:
    """What a merge did.

    Attributes:
        trials: Trials in the new folder.
        twice: How many of them were in more than one folder.
        headless: Files without a whole header, which are left out.
        copies: Files that are left out, as others of their folder hold the same trials.
    """

    trials: int
    twice: int
    headless: int
    copies: tuple[trial_files.DuplicateTrialFile, ...] = ()


def merge_results(out: Path, folders: Sequence[Path], command: list[str]) -> MergeSummary:
    """Join results folders; the new one is there whole, or not at all.

    Of a trial that is in several, the finished attempt stays, of these the one with the most
    evaluations, of these the earliest.

    Args:
        out: The new folder.
        folders: Results folders that agree in what their study asks for.
        command: The command line, for ``study.json``.

    Raises:
        UserError: ``out`` exists already or cannot be written, a folder is none of ours or
            broken, or two of them contradict each other.
    """
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder, merge never adds to one")
    files = [store.read_study(folder) for folder in folders]
    study = _union([file.study for file in files], folders)
    data = _same("data", [file.data for file in files], folders)
    code = _same("code", [file.code for file in files], folders)
    untuned = _same("untuned", [file.untuned for file in files], folders)
    unpublished = sorted({name for file in files for name in file.unpublished or ()})
    found: dict[str, list[TrialRecord]] = {}
    headless = 0
    copies: list[trial_files.DuplicateTrialFile] = []
    for folder in folders:
        trials = store.read_trial_files(folder)
        headless += len(trials.headless)
        copies += trials.copies
        for record in trials.records:
            found.setdefault(record.header.run_id, []).append(record)
    conflicts = [line for records in found.values() for line in _conflicts(records)]
    if conflicts:
        more = len(conflicts) - _MAX_NAMED
        raise UserError("; ".join(conflicts[:_MAX_NAMED])
                        + (f"; and {more} more" if more > 0 else "")
                        + ": move away those you do not believe, nothing was written")
    # The most complete attempt: the same whatever the order of the folders.
    chosen = {run_id: min(records, key=lambda record: (
        trial_files.incompleteness(record), record.header.time,
        Path(record.path).read_bytes() if len(records) > 1 else b""))
        for run_id, records in found.items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            whole = Path(temporary) / "whole"
            (whole / "trials").mkdir(parents=True)
            for run_id, record in chosen.items():
                shutil.copyfile(record.path, whole / "trials" / f"{run_id}.jsonl")
                saved = Path(record.path).parent.parent / checkpoint_files.FOLDER / run_id
                if not record.finished and saved.is_dir():
                    shutil.copytree(saved, whole / checkpoint_files.FOLDER / run_id)
            merge_storages(whole / STORAGE, [folder / STORAGE for folder in folders])
            write_json(whole / "study.json", store.StudyFile(
                study, command, store.now(), files[0].environment, data=data,
                code=code, untuned=untuned, unpublished=unpublished or msgspec.UNSET,
                merged=[store.MergedFolder(str(folder), file.command, file.created,
                                           file.environment)
                        for folder, file in zip(folders, files, strict=True)]))
            whole.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; make room, or name a folder "
                        "elsewhere") from error
    return MergeSummary(len(chosen), sum(len(records) > 1 for records in found.values()), headless,
                  tuple(copies))


def _union(studies: Sequence[Study], folders: Sequence[Path]) -> Study:
    """Return the study that asks for all that the others do, unless two contradict each other."""
    first = studies[0]
    for study, folder in zip(studies[1:], folders[1:], strict=True):
        for key in ("device", "trials", "base_seed", "sampler", "pruner", "space", "share"):
            one, other = getattr(first, key), getattr(study, key)
            if one != other:
                raise UserError(f"key {key!r}: {folders[0]} has {one}, {folder} has {other}; only "
                                "folders of one study can be merged, compare others with "
                                "`bench-apts compare`")
    suites = _by_name("suites", [[(s.name, s) for s in study.suites] for study in studies],
                      folders)
    entries = _by_name("entries", [[(e.label, e.portable) for e in study.entries]
                                   for study in studies], folders)
    return msgspec.structs.replace(
        first, suites=tuple(suites), entries=tuple(entries),
        ranks=tuple(dict.fromkeys(ranks for study in studies for ranks in study.ranks)),
        seeds=max(study.seeds for study in studies),
        twins=any(study.twins for study in studies))


def _by_name(key: str, listed: Sequence[Iterable[tuple[str, Any]]],
             folders: Sequence[Path]) -> list[Any]:
    """Join lists of named things; those of one name must be equal."""
    there: dict[str, tuple[Any, Path]] = {}
    for things, folder in zip(listed, folders, strict=True):
        for name, thing in things:
            known, where = there.setdefault(name, (thing, folder))
            if known != thing:
                path, one, other = _difference(msgspec.to_builtins(known),
                                               msgspec.to_builtins(thing))
                raise UserError(f"key '{key}[{name}]{path}': {where} has {one!r}, {folder} has "
                                f"{other!r}; give one of the two another name, or compare them "
                                "with `bench-apts compare`")
    return [thing for thing, _ in there.values()]


def _same(key: str, listed: Sequence[dict[str, str]], folders: Sequence[Path]) -> dict[str, str]:
    """Join hashes by name; of one name there is one, or the machines ran different things."""
    joined: dict[str, tuple[str, Path]] = {}
    for hashes, folder in zip(listed, folders, strict=True):
        for name, value in hashes.items():
            known, where = joined.setdefault(name, (value, folder))
            if known != value:
                raise UserError(f"key '{key}[{name}]': {where} has {known}, {folder} has {value}; "
                                "run all parts with the same data, code and options")
    return {name: value for name, (value, _) in joined.items()}


def _difference(one: Any, other: Any) -> tuple[str, Any, Any]:
    """Find where two unequal JSON values differ first: the path, and either value."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key not in one or key not in other or one[key] != other[key]:
                path, *values = _difference(one.get(key), other.get(key))
                return f".{key}{path}", values[0], values[1]
    return "", one, other


def _conflicts(records: Sequence[TrialRecord]) -> list[str]:
    """Name finished records of one trial that cannot all be true."""
    answers = [record for record in records if record.finished]
    found = []
    for other in records[1:]:
        if canonical(records[0].trial.portable) != canonical(other.trial.portable):
            found.append(f"{records[0].path} and {other.path} hold different trials")
    for other in answers[1:]:
        if what := _disagreement(answers[0], other):
            found.append(f"{answers[0].path} and {other.path} differ in {what}")
    return found


def _disagreement(one: TrialRecord, other: TrialRecord) -> str:
    """Say in what two answers to one trial differ that must be equal; "" if in nothing.

    Only times may differ on CPUs. GPUs add in any order, so that nothing but the start is
    compared there.
    """
    if one.start and other.start and (
            one.start.data_order_sha256 != other.start.data_order_sha256
            or one.start.initial_weights_sha256 != other.start.initial_weights_sha256):
        return "initial weights or data order"
    if one.trial.device != "cpu":
        return ""
    for mine, theirs in zip(one.evals, other.evals, strict=False):
        for name in ("step", "samples", "train_loss", "validation"):
            if getattr(mine, name) != getattr(theirs, name):
                return (f"{name} at the evaluation after {mine.samples} samples "
                        f"({getattr(mine, name)} and {getattr(theirs, name)})")
    assert one.end is not None
    assert other.end is not None
    if len(one.evals) != len(other.evals):
        shortened = {one.end.status, other.end.status} & _SHORTENED
        return "" if shortened else (
            f"the number of evaluations ({len(one.evals)} and {len(other.evals)})")
    if one.end.test and other.end.test and one.end.test != other.end.test:
        return f"the test metrics ({one.end.test} and {other.end.test})"
    hashes = {one.end.final_weights_sha256, other.end.final_weights_sha256} - {None}
    if len(hashes) > 1 and one.end.samples == other.end.samples:
        return "the hash of the final weights"
    return ""
