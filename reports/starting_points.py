"""What an optimizer did before its training began, where that may change its comparison."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from bench_apts.core import units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.core.records import TrialRecord

_NOTABLE_S = 1.0
"""Seconds of ``build`` that are worth a line; DeepSpeed takes a few to import."""

_ABOVE_CHANCE = 0.25
"""Accuracy above that of the most frequent class that no untrained network has by chance."""


def caveats(trials: Sequence[TrialRecord]) -> Iterator[tuple[str, str]]:
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
            + units.listing([f"{units.seconds(max(found))} for {label}"
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
