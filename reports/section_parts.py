"""What sections are built from and what they are made of.

A section turns a ``Context`` into a ``Part``: a title, one sentence written from the data, and
blocks. The template shows them; neither knows the other. Figures of one ``Pictures`` block that
have the very same ``data`` object show it once, below them all.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.reports.canvas import Figure
from bench_apts.reports.decision_answers import Box, Boxes
from bench_apts.reports.table import Table, Value, name, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pandas as pd
    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.spec import Suite
    from bench_apts.reports.asv_results import History
    from bench_apts.reports.cells import CellGroup
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.gather import Gathered


_SENTENCE_ENDS = re.compile(r"(?<=[.?!]) (?=[A-Z])")
_EXPLANATIONS = (
    "A search", "All tuning", "At the lower", "At the top edge", "Band", "Bars", "Dashed", "Each",
    "Filled", "Large", "Marks", "Memory is", "Not drawn", "Open:", "Recorded", "Replayed",
    "Ringed", "Rings", "Samples")
"""How the sentences of captions begin that say how to read a figure, and nothing of the data."""


@dataclass(frozen=True)
class Pictures:
    """Figures side by side, two or three in a row.

    Attributes:
        figures: At least one. Those with the first's ``choice`` are shown; a switch of the page
            shows others instead, which stand folded below where nothing can be switched.
        heading: What they are about, for instance ``"N = 2"``; "" for no heading.
        aside: A remark that follows the heading, "" for none.
        key: What the marks in the figures mean, "" if they need no words.
    """

    figures: tuple[Figure, ...]
    heading: str = ""
    aside: str = ""
    key: str = ""

    @property
    def chosen(self) -> tuple[tuple[Figure, ...], tuple[Figure, ...]]:
        """Those that are shown, and those that a switch shows."""
        first = self.figures[0].choice
        return (tuple(figure for figure in self.figures if figure.choice == first),
                tuple(figure for figure in self.figures if figure.choice != first))

    @property
    def shared(self) -> list[Table]:
        """The tables that several of the figures were drawn from."""
        drawn = [figure.data for figure in self.figures if figure.data]
        found = {id(data): data for data in drawn}
        return [data for data in found.values() if sum(other is data for other in drawn) > 1]


@dataclass(frozen=True)
class Listing:
    """A table; a folded one opens on demand."""

    table: Table
    folded: bool = True


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


Block = Pictures | Listing | Prose | Boxes


@dataclass(frozen=True)
class Part:
    """One part of a suite's chapter.

    Attributes:
        slug: Its anchor inside the chapter, for instance ``"pareto"``.
        title: Its heading.
        finding: One sentence written from the data, with its numbers.
        blocks: What is shown, in order.
        more: Blocks that follow and are folded together.
        evidence: Whether it stands open, among the evidence of the answer, or is folded.
    """

    slug: str
    title: str
    finding: str
    blocks: tuple[Block, ...] = ()
    more: tuple[Block, ...] = ()
    evidence: bool = False

    @property
    def every_block(self) -> tuple[Block, ...]:
        """All blocks, those that are folded together too."""
        return (*self.blocks, *self.more)

    @property
    def contents(self) -> str:
        """What is folded together, in a few words."""
        tables = [f"{block.table.title[0].lower()}{block.table.title[1:]}"
                  for block in self.more if isinstance(block, Listing)]
        drawn = sum(len(block.figures) for block in self.more if isinstance(block, Pictures))
        return "; ".join([*([units.plural(drawn, "figure")] if drawn else []), *tables])

    @property
    def basis(self) -> str:
        """What most of its figures rest on, to be said once; "" where no two rest on the same."""
        found = Counter(figure.basis for figure in self.figures).most_common(1)
        return found[0][0] if found and found[0][1] > 1 else ""

    @property
    def captions(self) -> dict[str, str]:
        """The caption of each figure by its name; how to read it is said of the first alone."""
        said: set[str] = set()
        found = {}
        for figure in self.figures:
            sentences = _SENTENCE_ENDS.split(figure.caption)
            found[figure.slug] = " ".join(each for each in sentences if each not in said)
            said.update(each for each in sentences if each.startswith(_EXPLANATIONS))
        return found

    @property
    def figures(self) -> list[Figure]:
        """All figures of its blocks."""
        return [figure for block in self.every_block if isinstance(block, Pictures)
                for figure in block.figures]

    @property
    def tables(self) -> list[Table]:
        """All tables of its blocks, those behind figures too."""
        found: list[Table] = []
        for block in self.every_block:
            if isinstance(block, Listing):
                found.append(block.table)
            elif isinstance(block, Pictures):
                found += [figure.data for figure in block.figures if figure.data]
        return found

    @property
    def boxes(self) -> list[Box]:
        """All decision boxes of its blocks."""
        return [box for block in self.every_block if isinstance(block, Boxes)
                for box in block.boxes]


@dataclass(frozen=True)
class Section:
    """What a section's module declares as ``SECTION``, besides its function ``part``.

    Attributes:
        anchor: Of the part inside its chapter, for instance ``"pareto"``; no two share one.
        title: Its heading.
        order: Parts stand on the page in the order of these numbers.
        compares: Whether its finding says who is first in something. The page then adds where
            the trials do not tell the optimizers apart.
        study: Whether it is about the whole study: ``part`` takes a ``StudyContext``, else the
            ``Context`` of each suite.
        evidence: Whether it stands open on the page, at its first blocks; others are folded.
    """

    anchor: str
    title: str
    order: int
    compares: bool = False
    study: bool = False
    evidence: bool = False

    def part(self, finding: str, blocks: Iterable[Block], *, more: Iterable[Block] = ()) -> Part:
        """Return the part of the page; see ``Part``."""
        return Part(self.anchor, self.title, finding, tuple(blocks), tuple(more), self.evidence)


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
        curves: The evaluations of the frozen configurations' trainings, see ``curve_frame``.
    """

    gathered: Gathered
    suite: Suite
    prefix: str
    groups: tuple[CellGroup, ...]
    looks: Mapping[str, Look]
    crowded: Mapping[int, bool]
    curves: pd.DataFrame

    def figure(self, draw: Callable[[], Drawing], slug: str, title: str, caption: str, *,
               basis: str, data: Table, ranks: int = 0, drawn: Iterable[str] = (),
               choice: str = "") -> Figure:
        """Return a figure about this suite, or about one N of it.

        Args:
            draw: Draws it.
            slug: End of its name.
            title: What it shows, without the suite.
            caption: What to see in it, with what was left out.
            basis: What it rests on.
            data: The numbers that are drawn.
            ranks: N; 0 where it is about all.
            drawn: The optimizers in the file's legend.
            choice: See ``canvas.Figure``.
        """
        stem, place = self.prefix, self.suite.name
        if ranks:
            stem, place = f"{stem}-n{ranks}", f"{place}, N = {ranks}"
        return Figure(draw, f"{stem}-{slug}", f"{place}: {title}", caption,
                      {label: self.looks[label] for label in drawn}, basis, data, choice)

    def size(self, ranks: int) -> str:
        """Return the heading of an N; a dagger marks times that measure the machine."""
        return f"N = {ranks}{' †' if self.crowded[ranks] else ''}"

    def noise(self, ranks: int) -> str:
        """Say how far the times of equal trials are apart at one N; "" if unknown."""
        (group,) = (group for group in self.groups if group.ranks == ranks)
        return (f"times of equal trials: up to {units.times(group.noise.factor)} apart"
                if group.noise else "")

    @property
    def conditions(self) -> str:
        """Target and cap of every trial, as each figure states them."""
        return (f"Target: {units.format_goal(self.suite.target)}; cap: "
                f"{units.format_budget(self.suite.budget)}.")


class StudyContext(NamedTuple):
    """What a section about the whole study is built from.

    Attributes:
        suites: The contexts of all suites, in the study's order.
        history: Numbers over commits to show as well, if any.
    """

    suites: tuple[Context, ...]
    history: History | None = None


def basis_sentence(context: Context, groups: Iterable[CellGroup]) -> str:
    """Say how many final trainings of each optimizer there are, and the suite's conditions."""
    counts = sorted({len(cell.seeds) for group in groups for cell in group.cells if cell.seeds})
    if not counts:
        return f"No final training. {context.conditions}"
    most = counts[-1]
    number = str(most) if len(counts) == 1 else f"{counts[0]} to {most}"
    return (f"n = {number} seed{'' if most == 1 else 's'} of each optimizer's frozen "
            f"configuration. {context.conditions}")


def final_hits(groups: Iterable[CellGroup]) -> tuple[int, int]:
    """Count the final trainings that reached the target, and all of them."""
    finals = [outcome for group in groups for cell in group.cells for outcome in cell.finals]
    return sum(outcome.hit for outcome in finals), len(finals)


FIGURE_SIZE = (4.9, 3.0)
"""Width and height of a figure in inches; two stand in a row."""


def opening(context: Context, label: str, ranks: int) -> tuple[Value, Value]:
    """Return the first two entries of a row: an optimizer and N."""
    return name(label, suite=context.suite.name), number(str(ranks), ranks=ranks)


def tables(*found: Table | None, folded: bool = True) -> list[Listing]:
    """Return the blocks of those tables that have any row."""
    return [Listing(table, folded) for table in found if table and table.rows]
