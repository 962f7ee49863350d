"""What the measure itself favours: suites a default was chosen on, targets, small splits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.core.spec import Suite

    from .gather import Gathered

CHOSEN_ON = {"apts": ("digits", "mnist", "mnist-cnn", "cifar10")}
"""Suites on whose validation splits the default of a backend of this repository was chosen."""

_COARSE = 0.005
"""Standard error of an accuracy, half a point, above which a split is called small."""


def caveats(gathered: Gathered) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each caveat."""
    suites = gathered.file.study.suites
    yield from _developed(gathered)
    for suite in suites:
        if suite.target.provenance.trials:
            yield _target(suite)
    for suite in suites:
        samples = max((group.validation_samples for group in gathered.groups
                       if group.suite == suite), default=0)
        yield from _coarse(suite, samples)


def _developed(gathered: Gathered) -> Iterator[tuple[str, str]]:
    names = list(dict.fromkeys(suite.name for suite in gathered.file.study.suites))
    for backend, chosen in CHOSEN_ON.items():
        if all(cell.optimizer != backend for group in gathered.groups for cell in group.cells):
            continue
        seen = [name for name in names if name in chosen]
        others = [name for name in names if name not in chosen]
        said = (f"The default of {backend} was chosen on the validation splits of "
                f"{units.listing(chosen)}.")
        if seen:
            said += (f" So it has seen {units.listing(seen)}, which the defaults and search "
                     "ranges of its rivals were not chosen on; a claim about other problems needs "
                     "other problems.")
        if others:
            said += f" It never saw {units.listing(others)}."
        yield f"What {backend}'s default was chosen on", said


def _target(suite: Suite) -> tuple[str, str]:
    origin, target = suite.target.provenance, suite.target
    levels = sorted({level for level in target.levels if level != 1}, reverse=True)
    text = (f"It rests on {origin.optimizer}, tuned by {units.plural(origin.trials, 'trial')}, in "
            f"{units.plural(origin.seeds, 'final training')}"
            + (f": {origin.note}" if origin.note else "")
            + f". A target at the median of a baseline less a standard deviation lies within its "
            f"scatter, so that some trainings of {origin.optimizer} miss it by construction.")
    if levels:
        text += (" Expected cost by level of the target shows "
                 + units.listing([units.goal(target, level).rpartition(" of ")[2]
                                  for level in levels]) + " as well.")
    return f"How the target of {suite.name} was set", text


def _coarse(suite: Suite, samples: int) -> Iterator[tuple[str, str]]:
    """Name a validation split that tells accuracies apart by no less than half a point."""
    target = suite.target
    if not samples or not units.is_share(target, target.metric) or not 0 < target.value < 1:
        return
    error = math.sqrt(target.value * (1 - target.value) / samples)
    if error > _COARSE:
        yield f"Few validation samples in {suite.name}", (
            f"Accuracies are measured on {samples:,} samples: at the target of "
            f"{units.trim(units.digits(100 * target.value))}{units.THIN}% that is a standard "
            f"error of {units.digits(100 * error, 2)} points. When a training reaches the target "
            "depends on these samples, too; they are the same for all optimizers.")
