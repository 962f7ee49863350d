"""Check of a suite's target: it is there, measured, and not met before training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.study.suite_checks.finding import Finding, worst

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Suite
    from bench_apts.study.suite_checks.finding import Level


def check(suite: Suite, missing: Sequence[str], records: Sequence[TrialRecord], name: str
          ) -> Finding:
    """Say whether the target can be used.

    Args:
        suite: The suite.
        missing: What its file lacks, as ``target_file.missing`` says.
        records: Short trials of the suite.
        name: The suite as the user called it.
    """
    target, remedy = suite.target, f"measure one: bench-apts calibrate {name} --write"
    if missing:
        keys = " and ".join(each.partition("=")[0].removeprefix("suite.") for each in missing)
        return Finding("target", "failed", f"{keys} is missing; {remedy}")
    goal = units.goal(target).replace(units.THIN, " ")
    source = target.provenance
    starts = [r.evals[0].validation.get(target.metric, math.nan) for r in records if r.evals]
    chance = next((r.start.chance for r in records if r.start and r.start.chance), None)

    def found() -> Iterator[tuple[Level, str]]:
        if any(map(target.reached, starts)):
            yield ("failed", f"the untrained network reaches {goal}; {remedy}")
        elif target.metric == "accuracy" and chance and target.value <= chance:
            yield ("failed", f"always answering the most frequent class reaches {goal}; {remedy}")
        if source.trials == 0 or source.seeds == 0:
            yield ("warning", f"{goal} is chosen by hand, not measured; {remedy}")
        elif source.note.startswith("provisional"):
            yield ("warning", f"{goal} is provisional; {remedy}")

    return worst("target", found(), f"{goal}, measured with {source.optimizer} by "
                                    f"{source.trials} trials and {source.seeds} seeds")
