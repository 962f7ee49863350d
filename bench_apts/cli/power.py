"""``bench-apts power``: how many seeds and trials distinguish two optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from bench_apts.cli import session
from bench_apts.core.currencies import Currency

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.reports.cells import ReportCell
    from bench_apts.stats.sample_size import Spread


def command(
    results: Annotated[Path | None, Argument(
        metavar="RESULTS", help="A results folder whose scatter is used, for instance "
                                "results/digits; without it, --scatter and --failures.",
        show_default=False)] = None,
    factor: Annotated[float, Option(
        metavar="F", help="How much dearer one optimizer is than the other.")] = 1.2,
    scatter: Annotated[float, Option(
        metavar="SHARE", min=0.0, max=3.0,
        help="Scatter of costs from seed to seed, as standard deviation of the logarithm; 0.1 is "
             "about 10 %.")] = 0.1,
    failures: Annotated[float, Option(
        metavar="SHARE", min=0.0, max=0.95,
        help="Share of trials that miss the target, each of which costs three hits.")] = 0.0,
    rivals: Annotated[int, Option(
        metavar="K", min=1, max=50, help="How many optimizers are compared with one, as one "
                                         "family.")] = 1,
    currency: Annotated[Currency, Option(
        metavar="UNIT", help="What the scatter of RESULTS is measured in.")] = "samples",
) -> None:
    """Say how many seeds and tuning trials tell a factor apart.

    Simulated studies are judged by the rule of docs/statistics.md; a number is
    enough if 80 % of them tell the factor.
    """
    from bench_apts.core.errors import UserError
    from bench_apts.stats.sample_size import Spread

    if not 1.0 < factor < 1e6:
        raise UserError(f"--factor {factor:g}: give how much dearer one optimizer is, for "
                        "instance 1.2")
    if results is None:
        print(_pairs(f"scatter of {scatter:.0%}, {failures:.0%} of trials missing",
                     Spread(scatter, failures), factor, rivals))
        return
    for line in _recorded(results, currency, factor, rivals):
        print(session.plain_text(line))


def _pairs(what: str, spread: Spread, factor: float, rivals: int) -> str:
    from bench_apts.stats.sample_size import ENOUGH, SIZES, needed, power

    enough = needed(spread, spread, factor, rivals=rivals)
    family = f" in a family of {rivals}" if rivals > 1 else ""
    if enough is None:
        best = power(spread, spread, (SIZES[-1],) * 2, factor, paired=True, rivals=rivals)
        return (f"{what}: {SIZES[-1]} pairs of seeds tell a factor of {factor:g}{family} in only "
                f"{best:.0%} of studies")
    reached = power(spread, spread, (enough, enough), factor, paired=True, rivals=rivals)
    return (f"{what}: {enough} pairs of seeds tell a factor of {factor:g}{family} in "
            f"{reached:.0%} of studies (at least {ENOUGH:.0%} asked; --seeds {enough})")


def _recorded(results: Path, currency: Currency, factor: float, rivals: int) -> Iterator[str]:
    """Say for each suite and N what its own scatter takes."""
    from bench_apts.reports.gather import gather
    from bench_apts.stats.sample_size import needed, spread
    from bench_apts.stats.trial_costs import all_known, outcome

    for group in gather(results).groups:
        where = f"{group.suite.name} at N = {group.ranks}"
        found: dict[bool, list[tuple[ReportCell, Spread]]] = {True: [], False: []}
        for cell in group.cells:
            for tuned, records in ((False, cell.seeds), (True, cell.tune)):
                drawn = [outcome(record) for record in records]
                if not all_known(drawn, currency) or cell.search_owner:
                    continue
                one = spread([o.spent[currency] for o in drawn],
                             [o.cost[currency] for o in drawn])
                if one:
                    found[tuned].append((cell, one))
        for cell, one in found[False]:
            yield _pairs(f"{where}, final trainings of {cell.label} (scatter {one.scatter:.0%}, "
                         f"{one.failures:.0%} missing)", one, factor, rivals)
        plain = max((one for _, one in found[False]), key=lambda one: one.scatter, default=None)
        if not any(found.values()):
            yield f"{where}: no optimizer has two trials that reached the target"
        if plain is None:
            continue
        for cell, one in found[True]:
            trials = len(cell.tune)
            enough = needed(one, plain, factor, rivals=rivals, fixed=trials)
            more = needed(one, one, factor, rivals=rivals)
            yield (f"{where}, the search of {cell.label} (scatter {one.scatter:.0%}, "
                   f"{one.failures:.0%} missing) against an optimizer without tuning: its "
                   f"{trials} trials "
                   + (f"take {enough} seeds of the other" if enough else
                      "are too few, whatever the seeds")
                   + f"; against another search it takes {more or 'more than 100'} trials of "
                     "either")
