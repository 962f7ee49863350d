"""What the figures of the tuning bill share: what they rest on, axes of costs, whom they show."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units

from ..findings import misses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..context import Context
    from ..drawing.style import Look
    from .pool import Pool, View

SIZE = (4.9, 3.0)
"""Width and height of a figure in inches; two stand in a row."""


class Scene(NamedTuple):
    """One N of one suite.

    Attributes:
        context: The suite.
        view: Currency, level and device.
        ranks: World size N.
        pools: Trials of all optimizers at this N, in the study's order.
    """

    context: Context
    view: View
    ranks: int
    pools: tuple[Pool, ...]

    @property
    def stem(self) -> str:
        """What the names of all its figures begin with."""
        return f"{self.context.prefix}-n{self.ranks}"

    def slug(self, figure: str) -> str:
        """Returns the name of a figure's files."""
        return f"{self.stem}-{figure}"

    def title(self, text: str) -> str:
        """Returns a figure's title."""
        return f"{self.context.suite.name}, N = {self.ranks}: {text}"

    @property
    def searches(self) -> list[Pool]:
        """Those with a bill and trials of their own: a search that served several counts once."""
        return [pool for pool in self.pools if pool.ert.total and not pool.cell.leader]

    @property
    def basis(self) -> str:
        """Says how many trials the figures rest on, and the suite's conditions."""
        parts = [_numbers([pool for pool in self.searches if bool(pool.cell.tune) == tuned],
                          "trial" if tuned else "seed",
                          "tuned optimizer" if tuned else "optimizer without tuning")
                 for tuned in (True, False)]
        return f"n = {'; '.join(filter(None, parts))}. {self.context.conditions}"

    @property
    def unit(self) -> str:
        """Names the currency where its unit does not say it, for instance in a heading."""
        return f", in {units.named(self.view.currency, self.view.device)}"

    @property
    def axis(self) -> Callable[[float], str]:
        """Formats costs on an axis whose title says what they are counted in."""
        return partial(units.tick, self.view.currency)

    def legend(self, pools: Iterable[Pool]) -> dict[str, Look]:
        """Returns the looks of what is drawn."""
        return {pool.cell.label: self.context.looks[pool.cell.label] for pool in pools}

    @property
    def followers(self) -> str:
        """Says whose trials are another's and therefore not drawn; "" if there are none."""
        shared: dict[str, list[str]] = {}
        for pool in self.pools:
            if pool.cell.leader:
                shared.setdefault(pool.cell.leader, []).append(pool.cell.label)
        return "".join(f" Not drawn, as {leader}'s search served: {units.listing(who)}."
                       for leader, who in shared.items())

    def missed(self, pools: Iterable[Pool]) -> str:
        """Says who never reached the target and what was spent in vain; "" if all did."""
        lost = [f"{pool.cell.label} ({misses(0, pool.ert.trials)}, "
                f"{self.view.more_than(pool.ert.bound)})" for pool in pools if not pool.ert.hits]
        return f" Not drawn: {units.listing(lost)}." if lost else ""


def reference(pools: Sequence[Pool]) -> Pool | None:
    """Returns the optimizer without tuning that tuning is held against: apts, else the cheapest.

    None where no optimizer without tuning reached the target.
    """
    free = [pool for pool in pools if not pool.cell.tune and pool.ert.hits and pool.ert.total]
    family = [pool for pool in free if pool.cell.optimizer == "apts"]
    return min(family or free, key=lambda pool: pool.ert.cost, default=None)


def _numbers(pools: Sequence[Pool], kind: str, whose: str) -> str:
    """Says how many trials most have, and who has another number."""
    if not pools:
        return ""
    counts = Counter(pool.ert.trials for pool in pools)
    usual, _ = counts.most_common(1)[0]
    others = [f"{pool.cell.label} {pool.ert.trials}" for pool in pools
              if pool.ert.trials != usual]
    return (f"{units.plural(usual, kind)} of each {whose}"
            + (f" ({', '.join(others)})" if others else ""))


def finite(value: float | None) -> float | None:
    """Returns a number as tables keep it: None where it is infinite or there is none."""
    return value if value is not None and math.isfinite(value) else None
