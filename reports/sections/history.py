"""History over commits: what asv's benchmarks counted, drawn from its result files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units

from ..history.figures import figures, short, table
from ..parts import Block, Listing, Part, Pictures

if TYPE_CHECKING:
    from ..history.commits import History


def part(found: History) -> Part:
    """Builds the section, which is about the code and not about a suite.

    Args:
        found: See ``history.read``.
    """
    drawn = figures(found)
    blocks: list[Block] = [Pictures(tuple(drawn), wide=True)] if drawn else []
    blocks.append(Listing(table(found), folded=bool(drawn)))
    return Part("history", "History over commits", _finding(found), tuple(blocks))


def _finding(found: History) -> str:
    commits = found.commits
    lines = units.plural(len(found.lines), "number")
    if len(commits) == 1:
        return f"asv has stored {lines} at one commit, {commits[0][:7]}; nothing to compare yet."
    span = (f"over {units.plural(len(commits), 'commit')}, {commits[0][:7]} to "
            f"{commits[-1][:7]}")
    failed = sum(line.fails for line in found.lines)
    worse = [line for line in found.lines if line.ratio > 1]
    better = sum(line.ratio < 1 for line in found.lines)
    back = sum(line.ratio == 1 and line.changed for line in found.lines)
    text = (f"Of {lines} {span}, {len(worse)} grew and {better} fell"
            + (f", and {back} changed and came back" if back else "")
            if worse or better or back else f"None of {lines} changed {span}")
    if worse:
        worst = max(worse, key=lambda line: line.ratio)
        text += (f"; the most {short(worst.benchmark)}"
                 f"{f' of {worst.parameters}' if worst.parameters else ''}, "
                 + (f"{units.times(worst.ratio)} its first" if math.isfinite(worst.ratio)
                    else "whose first is 0"))
    if failed:
        text += f"; {units.plural(failed, 'benchmark')} failed at the latest commit"
    return text + "."
