"""Short real trials of a suite, and what their records say about it."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bench_apts.study.suite_checks.finding import Finding, worst

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Study, Suite
    from bench_apts.study.suite_checks.finding import Level

OPTIMIZERS = "sgd,apts"
STEPS = 2
_CLOSE = 1e-3
"""Relative difference between sums over one and over two ranks that rounding may make."""


def shortened(study: Study) -> Study:
    """Return a study whose trials end after the first evaluation at two steps or later."""
    return replace(study, suites=tuple(_short(suite, max(study.ranks)) for suite in study.suites))


def _short(suite: Suite, ranks: int) -> Suite:
    samples = STEPS * suite.global_batch(ranks)
    return replace(suite, budget=replace(suite.budget, samples=samples),
                   evaluation=replace(suite.evaluation, every_samples=samples, consecutive=1))


def training(study: Study, records: Sequence[TrialRecord]) -> Finding:
    """Say whether all trials ran to their end.

    One optimizer may diverge, as its hyperparameters are not tuned; if all diverge, it fails.
    """
    groups = {(entry.label, ranks): [
        r for r in records if (r.trial.label, r.trial.ranks) == (entry.label, ranks)]
        for entry, ranks in itertools.product(study.entries, study.ranks)}
    statuses = {place: [r.end.status if r.end else "" for r in mine]
                for place, mine in groups.items()}
    everywhere = all("diverged" in each for each in statuses.values())

    def found() -> Iterator[tuple[Level, str]]:
        for (label, ranks), mine in groups.items():
            where = f"{label} at N = {ranks}"
            bad = next((r for r in mine if not (
                r.end and r.end.status in ("hit", "miss", "diverged"))), None)
            if bad is not None:
                end = bad.end
                yield "failed", f"{where}: {end.reason or end.status if end else 'no end'}"
            elif not mine:
                yield "failed", f"{where}: not run, as others failed alike"
            elif "diverged" in statuses[label, ranks]:
                yield ("failed" if everywhere else "warning",
                       f"{where} diverges within {STEPS} steps at its default hyperparameters; "
                       "scale the loss or the targets down")

    ranks = " and ".join(map(str, study.ranks))
    labels = " and ".join(entry.label for entry in study.entries)
    return worst("training", found(), f"{labels} each take {STEPS} steps at N = {ranks}")


def determinism(records: Sequence[TrialRecord], device: str) -> Finding:
    """Compare trials that must be equal: repeated ones whole, all others in what they start with.

    Args:
        records: The trials'.
        device: ``"cpu"`` or ``"cuda"``, where atomic additions may come in any order.
    """
    pairs = [(one, two) for one, two in itertools.combinations(records, 2)
             if one.trial.twin != two.trial.twin and one.evals and two.evals
             and replace(one.trial, twin=False) == replace(two.trial, twin=False)]
    if not pairs:
        return Finding("determinism", "skipped", "no trial could be run twice")

    def found() -> Iterator[tuple[Level, str]]:
        weights = {r.start.initial_weights_sha256 for r in records if r.start} - {None}
        if len(weights) > 1:
            yield ("failed", "the network starts from other weights each time; draw them from "
                             "torch's global generator, which the harness seeds")
            return
        for one, two in pairs:
            ends = [r.end.final_weights_sha256 if r.end else None for r in (one, two)]
            curves = [[e.validation for e in r.evals] for r in (one, two)]
            if ends[0] != ends[1] or curves[0] != curves[1]:
                remedy = ("call torch.use_deterministic_algorithms(True) in the model's module"
                          if device == "cuda" else "draw random numbers from torch's global "
                          "generator, and read no clock")
                yield ("warning" if device == "cuda" else "failed",
                       f"two equal runs of {one.trial.label} at N = {one.trial.ranks} end with "
                       f"different weights or metrics; {remedy}")

    ranks = " and ".join(str(r) for r in sorted({one.trial.ranks for one, _ in pairs}))
    return worst("determinism", found(), f"two runs at N = {ranks} are equal, bit for bit")


def counted(records: Sequence[TrialRecord], validation: int | None) -> Iterator[tuple[Level, str]]:
    """Yield how an evaluation by several ranks differs from that by one, if there were any.

    Args:
        records: The trials'.
        validation: Size of the validation split; None if it is not known here.
    """
    if not any(record.evals for record in records):
        yield "skipped", "no trial came to an evaluation"
    for record in records:
        if record.start and validation not in (None, record.start.validation_samples):
            yield ("failed", f"a trial evaluates {record.start.validation_samples:,} samples, and "
                             f"the validation split has {validation:,}")
            return
    first = {(r.trial.label, r.trial.ranks): r.evals[0].validation for r in records if r.evals}
    for (label, ranks), values in first.items():
        alone = first.get((label, 1), values)
        for name in alone:
            other = values.get(name, math.nan)
            if not math.isclose(alone[name], other, rel_tol=_CLOSE, abs_tol=1e-6):
                yield ("failed", f"{name} of the untrained network is {alone[name]:.6g} at N = 1 "
                                 f"and {other:.6g} at N = {ranks}; it must be a sum over samples, "
                                 "by a count, whatever batch they are in")
                return
