"""What a study will cost, before it runs: counted exactly, timed from records where there are."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from bench_apts import store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.plan import Plan


def lines(plan: Plan, folder: Path) -> Iterator[str]:
    """Yields the plan line by line.

    The time of a trial is the mean of finished trials of the same competitor, suite and N in
    ``folder``; where there is none, only the cap that the suite's budget sets is known.
    """
    study = plan.study
    known = store.read_trials(folder) if folder.exists() else []
    done = {r.trial.run_id for r in known if r.finished}
    tuning = plan.tuning()
    yield f"results folder: {folder}"
    yield f"device: {study.device}, world sizes: {', '.join(map(str, study.ranks))}"
    estimated, capped = 0.0, 0.0
    for cell in plan.cells:
        drawn = [t for t in tuning if (t.suite, t.label, t.ranks)
                 == (cell.suite, cell.entry.label, cell.ranks)]
        left = sum(t.run_id not in done for t in drawn) + study.seeds
        times = [r.end.wall_s for r in known if r.finished and r.end
                 and (r.trial.suite, r.trial.label, r.trial.ranks)
                 == (cell.suite, cell.entry.label, cell.ranks)]
        if times:
            seconds = statistics.mean(times) * left
            estimated += seconds
            cost = f"about {seconds:.0f} s from {len(times)} finished trials"
        else:
            seconds = cell.suite.budget.seconds * left
            capped += seconds
            cost = f"no record yet, at most {seconds:.0f} s of training by the suite's budget"
        yield (f"{cell.suite.name} {cell.entry.label} N={cell.ranks}: {len(drawn)} tuning + "
               f"{study.seeds} report trials of {cell.suite.budget.samples} samples, "
               f"{left} to run at most; {cost}")
    total = [f"about {estimated / 60:.1f} min" if estimated else "",
             f"at most {capped / 60:.1f} min for what has no record yet" if capped else ""]
    yield "estimated cost: " + " and ".join(filter(None, total))
