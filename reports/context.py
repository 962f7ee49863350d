"""One suite of a study, with what all sections about it need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_apts.core import units

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from bench_apts.core.spec import Suite

    from .cells import Group
    from .drawing.style import Look
    from .gather import Gathered
    from .tuning.replay import Replays


@dataclass(frozen=True)
class Context:
    """What a section is built from.

    Attributes:
        gathered: The whole study.
        suite: The suite that the section is about.
        prefix: What the names of its figures begin with; unique in the page.
        groups: The suite's optimizers at each N, N ascending.
        looks: Each optimizer's look, by label.
        crowded: For each N, whether its times measure the machine rather than the method.
        curves: The evaluations of the frozen configurations' trainings, see ``curves.frame``.
        replays: Tuning policies over the study's trials; None to leave them out.
    """

    gathered: Gathered
    suite: Suite
    prefix: str
    groups: tuple[Group, ...]
    looks: Mapping[str, Look]
    crowded: Mapping[int, bool]
    curves: pd.DataFrame
    replays: Replays | None = None

    def size(self, ranks: int) -> str:
        """Heading of what is about one N; a dagger marks times that measure the machine."""
        return f"N = {ranks}{' †' if self.crowded[ranks] else ''}"

    def noise(self, ranks: int) -> str:
        """How far the times of equal trials are apart at one N; "" where nobody knows."""
        (group,) = (group for group in self.groups if group.ranks == ranks)
        return (f"times of equal trials: up to {units.times(group.noise.factor)} apart"
                if group.noise else "")

    @property
    def conditions(self) -> str:
        """Target and cap of every trial, as each figure states them."""
        budget = self.suite.budget
        return (f"Target: {units.goal(self.suite.target)}; cap: "
                f"{units.trim(units.count(budget.samples))} samples or "
                f"{units.trim(units.seconds(budget.seconds))}.")
