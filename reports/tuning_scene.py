"""One N of one suite as the sections about tuning see it: its trials, and words about them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, currency_noun
from bench_apts.reports.table import hits_of_trials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Context
    from bench_apts.reports.tuning_pools import CostView, Pool


class TuningScene(NamedTuple):
    """One N of one suite.

    Attributes:
        context: The suite.
        view: Currency, level and device.
        ranks: World size N.
        pools: Trials of all optimizers at this N, in the study's order.
    """

    context: Context
    view: CostView
    ranks: int
    pools: tuple[Pool, ...]

    @property
    def stem(self) -> str:
        """What the names of all its figures begin with."""
        return f"{self.context.prefix}-n{self.ranks}"

    def slug(self, figure: str) -> str:
        """Return the name of a figure's files."""
        return f"{self.stem}-{figure}"

    def title(self, text: str) -> str:
        """Return a figure's title."""
        return f"{self.context.suite.name}, N = {self.ranks}: {text}"

    @property
    def searches(self) -> list[Pool]:
        """Those with a bill and trials of their own: a search that served several counts once."""
        return [pool for pool in self.pools if pool.ert.total and not pool.cell.search_owner]

    @property
    def basis(self) -> str:
        """How many trials the figures rest on, and the suite's conditions."""
        parts = [_trial_numbers([pool for pool in self.searches if bool(pool.cell.tune) == tuned],
                          "trial" if tuned else "seed",
                          "tuned optimizer" if tuned else "optimizer without tuning")
                 for tuned in (True, False)]
        return f"n = {'; '.join(filter(None, parts))}. {self.context.conditions}"

    @property
    def unit(self) -> str:
        """The currency where its unit does not say it, for instance in a heading."""
        return f", in {currency_noun(self.view.currency, self.view.device)}"

    @property
    def axis(self) -> Callable[[float], str]:
        """Format of costs on an axis whose title says what they are counted in."""
        return CURRENCIES[self.view.currency].form

    def legend(self, pools: Iterable[Pool]) -> dict[str, Look]:
        """Return the looks of what is drawn."""
        return {pool.cell.label: self.context.looks[pool.cell.label] for pool in pools}

    @property
    def shared_searches(self) -> str:
        """Say whose trials are another's and therefore not drawn; "" if there are none."""
        shared: dict[str, list[str]] = {}
        for pool in self.pools:
            if pool.cell.search_owner:
                shared.setdefault(pool.cell.search_owner, []).append(pool.cell.label)
        return "".join(f" Not drawn, as {owner}'s search served: {units.listing(who)}."
                       for owner, who in shared.items())

    def missed(self, pools: Iterable[Pool]) -> str:
        """Say who never reached the target and what was spent in vain; "" if all did."""
        lost = [f"{pool.cell.label} ({hits_of_trials(0, pool.ert.trials)}, "
                f"{self.view.more_than(pool.ert.bound)})" for pool in pools if not pool.ert.hits]
        return f" Not drawn: {units.listing(lost)}." if lost else ""


def untuned_reference(pools: Sequence[Pool]) -> Pool | None:
    """Return the optimizer without tuning that tuning is compared with.

    It is the cheapest that declares a family, else the cheapest of all; None where no optimizer
    without tuning reached the target.
    """
    free = [pool for pool in pools if not pool.cell.tune and pool.ert.hits and pool.ert.total]
    family = [pool for pool in free if pool.cell.family]
    return min(family or free, key=lambda pool: pool.ert.cost, default=None)


def _trial_numbers(pools: Sequence[Pool], kind: str, whose: str) -> str:
    """Say how many trials most have, and who has another number."""
    if not pools:
        return ""
    counts = Counter(pool.ert.trials for pool in pools)
    usual, _ = counts.most_common(1)[0]
    others = [f"{pool.cell.label} {pool.ert.trials}" for pool in pools
              if pool.ert.trials != usual]
    return (f"{units.plural(usual, kind)} of each {whose}"
            + (f" ({', '.join(others)})" if others else ""))
