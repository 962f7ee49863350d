"""Resolve what the user wrote on the command line to a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from msgspec import UNSET

from bench_apts.core import environment, gpu_devices, store
from bench_apts.core.configuration import competitor_label, parse_selector
from bench_apts.core.errors import UserError
from bench_apts.core.files import require_utf8
from bench_apts.core.spec import Entry, Pruner, Sampler, Space, Study
from bench_apts.plugins import registry, selection, suite_file
from bench_apts.suites import suite_problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench_apts.core.spec import Suite
    from bench_apts.plugins.registry import Plugin

DEFAULT_OPTIMIZERS = ("apts,sgd,adam,adam-default,nadamw,nadamw-list,schedule-free,prodigy,"
                      "local-adam,zero1,zero2,zero3")

_MAX_TRIALS = 10_000
"""Of one cell; each is planned before any runs."""

_STREAMERS = 2
"""Processes that read streamed data for one rank, where the suite does not say."""

_RANK_BYTES = 2**26
"""Memory that a CPU rank needs for itself at least, without what it shares with the others."""


def resolve_study(
    suites: list[str] | None, overrides: tuple[str, ...], gpus: str | None, optimizers: str | None,
    trials: int, seeds: int, base_seed: int, twins: bool, sampler: Sampler = "random",
    pruner: Pruner = "none", space: Space = "narrow", share: bool = True, nodes: int = 1,
    config: Path | None = None,
) -> tuple[Study, list[str]]:
    """Resolve names, world sizes and selectors.

    Args are those of the options of ``bench-apts run``; without ``suites`` they are those of the
    ``study.json`` that ``config`` names, else the digits.

    Returns:
        The study, and notes that the user should read before it runs.

    Raises:
        UserError: Anything is unknown, malformed, unavailable or absurdly large.
    """
    for option, number, most in (("--trials", trials, _MAX_TRIALS),
                                 ("--seeds", seeds, _MAX_TRIALS),
                                 ("--base-seed", base_seed, 2**63 - 1)):
        if abs(number) > most:
            raise UserError(f"{option} {number}: at most {most:,}")
    notes: list[str] = []
    chosen, folders, workers = chosen_suites(suites, overrides, config, notes)
    device, ranks = world_sizes(gpus, notes, nodes, chosen)
    return Study(
        suites=chosen, entries=_entries(optimizers, notes), ranks=ranks, trials=trials,
        seeds=seeds, base_seed=base_seed, device=device, twins=twins, sampler=sampler,
        pruner=pruner, space=space, share=share, folders=dict(folders) or UNSET,
        workers=dict(workers) or UNSET), notes


def stored_study(config: Path | None) -> Study | None:
    """Return the study of a ``study.json``; None for no file, or another one.

    Raises:
        UserError: It is missing, broken or newer than this version.
    """
    if config is None or config.suffix != ".json":
        return None
    return store.read_study_file(config).study


class ChosenSuites(NamedTuple):
    """Resolved suites, folders of those that name Python files, workers of those that stream."""

    suites: tuple[Suite, ...]
    folders: Mapping[str, str]
    workers: Mapping[str, int]


def chosen_suites(names: list[str] | None, overrides: tuple[str, ...], config: Path | None,
                  notes: list[str]) -> ChosenSuites:
    """Find the suites of a command; arguments as in ``resolve_study``, which adds to ``notes``.

    Raises:
        UserError: One is unknown or not valid.
    """
    stored = None if names else stored_study(config)
    if stored and config:
        return _stored_suites(stored, config, overrides, notes)
    return _named_suites(names or ["digits"], overrides)


def _stored_suites(
    study: Study, config: Path, overrides: tuple[str, ...], notes: list[str]
) -> ChosenSuites:
    """Take the suites of a study as they were resolved then; their code is that of now."""
    chosen = []
    for stored in study.suites:
        suite = suite_file.changed(stored, overrides, str(config)) if overrides else stored
        if suite.sources or suite.task:
            suite = suite_problem.resolved(suite, study.folder(stored))
        if suite.code_sha256 != stored.code_sha256:
            notes.append(f"suite {suite.name}: its code has changed since {config} was written")
        chosen.append(suite)
    return ChosenSuites(tuple(chosen), study.folders or {}, study.workers or {})


def _named_suites(names: list[str], overrides: tuple[str, ...]) -> ChosenSuites:
    chosen: dict[str, Suite] = {}
    folders, workers = {}, {}
    for name in dict.fromkeys(names):
        suite = registry.suite(name, overrides)
        if suite.name in chosen and (suite.sources or chosen[suite.name].sources):
            raise UserError(f"--suite {name}: there is another suite of the name '{suite.name}'; "
                            "rename one")
        if suite.sources:
            folder = registry.suite_path(name).resolve().parent
            suite = suite_problem.resolved(suite, str(folder))
            if any(source.partition(":")[0].endswith(".py") for source in suite.sources.values()):
                folders[suite.name] = require_utf8("the suite", folder)
        elif suite.task:
            suite = suite_problem.resolved(suite, "")
        if suite.data.stream:
            asked = suite.data.workers
            workers[suite.name] = _STREAMERS if isinstance(asked, msgspec.UnsetType) else asked
            suite = msgspec.structs.replace(
                suite, data=msgspec.structs.replace(suite.data, workers=UNSET))
        chosen[suite.name if suite.sources else name] = suite
    return ChosenSuites(tuple(chosen.values()), folders, workers)


def world_sizes(
    gpus: str | None, notes: list[str], nodes: int = 1, suites: Sequence[Suite] = ()
) -> tuple[Literal["cpu", "cuda"], tuple[int, ...]]:
    """Read ``--gpus`` and decides between GPUs and CPU ranks.

    Without it there is one rank, and as many as there are GPUs or cores to share the minibatches
    of ``suites`` evenly. Several nodes share the ranks evenly; a single rank runs on node 0.

    Raises:
        UserError: Not a list of positive numbers, more GPUs asked for than there are, or not to
            be shared evenly.
    """
    there, cores = gpu_devices.gpu_count() * nodes, environment.cores() * nodes
    most = there or cores
    ranks = parse_sizes("--gpus", gpus) if gpus is not None else _all(
        most, "GPUs" if there else "cores", nodes, suites, notes)
    uneven = [n for n in ranks if n > 1 and n % nodes]
    if uneven:
        raise UserError(f"--gpus {gpus}: {uneven[0]} ranks cannot be spread evenly over {nodes} "
                        f"nodes; choose 1 or multiples of {nodes}")
    if there:
        if max(ranks) > there:
            have = f"{nodes} nodes like this one have" if nodes > 1 else "this machine has"
            raise UserError(f"--gpus {gpus}: {have} {there} GPU{'s' * (there > 1)}; "
                            f"ask for {there} at most, or run CPU ranks with --device cpu")
        return "cuda", ranks
    memory = environment.memory_bytes() * nodes
    if max(ranks) * _RANK_BYTES > memory:
        raise UserError(f"--gpus {gpus}: {max(ranks):,} ranks take at least "
                        f"{max(ranks) * _RANK_BYTES / 2**30:,.1f} GiB, and there are "
                        f"{memory / 2**30:,.1f} GiB; ask for fewer")
    notes.append("no GPU is visible here: every rank is a CPU process over gloo, and times are "
                 "CPU times")
    usable = environment.usable_cores()
    if usable < 1:
        notes.append(f"every rank has to do with {usable:g} cores or less: all times measure this "
                     "machine, not the method")
    elif max(ranks) > cores:
        notes.append(f"{max(ranks)} ranks share {cores} cores: times beyond N={cores} measure "
                     "this machine, not the method")
    return "cpu", ranks


def _all(
    most: int, kind: str, nodes: int, suites: Sequence[Suite], notes: list[str]
) -> tuple[int, ...]:
    largest = next(n for n in range(most, 0, -1) if n == 1 or (
        n % nodes == 0 and all(suite.global_batch(n) % n == 0 for suite in suites)))
    if largest < most:
        notes.append(f"N = {largest} of {most} {kind}, which share every suite's minibatch "
                     "evenly; --gpus chooses otherwise")
    return tuple(sorted({1, largest}))


def parse_sizes(option: str, text: str) -> tuple[int, ...]:
    """Read a list of world sizes; each counts once.

    Raises:
        UserError: One is no whole number from 1 on, or more than any machine could have.
    """
    try:
        ranks = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        ranks = ()
    if not ranks or min(ranks) < 1 or max(ranks) >= 2**31:
        raise UserError(f"{option} {text}: write world sizes from 1 on, for instance 1,2,4")
    return ranks


def resolve_entry(selector: str) -> tuple[Entry, Plugin]:
    """Read a selector and finds its optimizer, which is called by its backend's name.

    Raises:
        UserError: The selector is malformed, or the optimizer unknown or misconfigured.
    """
    written = parse_selector(selector)
    plugin = registry.optimizer(written.optimizer)
    plugin.backend.configure(written.pinned)
    label = competitor_label(written.label, plugin.backend.name)
    return msgspec.structs.replace(written, label=label), plugin


def _entries(optimizers: str | None, notes: list[str]) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    known: dict[str, tuple[str, str]] = {}
    chosen = selection.select(DEFAULT_OPTIMIZERS if optimizers is None else optimizers,
                              optional=optimizers is None)
    notes += chosen.notes
    for text in chosen.selectors:
        found, plugin = resolve_entry(text)
        if reason := plugin.backend.unavailable():
            raise UserError(f"optimizer {found.label} is unavailable: {reason}; install it or "
                            "leave the optimizer out of --optimizers")
        entries.append(found)
        name = plugin.backend.name
        reference, other = known.setdefault(name, (plugin.reference, found.optimizer))
        if reference != plugin.reference:
            raise UserError(f"--optimizers: {other} and {found.optimizer} are both called "
                            f"'{name}'; give the backend in one of them another name")
    if not entries:
        raise UserError("--optimizers names none that can run here; see `bench-apts list "
                        "optimizers`")
    labels = [one.label for one in entries]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise UserError(f"--optimizers names {', '.join(sorted(twice))} twice")
    return tuple(entries)
