"""A report in at most 60 lines of Markdown, fit for a comment on a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.markdown import escaped, line

from ..parts import Boxes, Listing

if TYPE_CHECKING:
    from ..page import Chapter, Output
    from ..table import Table, Value

LINES = 60
"""Most lines; what is said first is what a reader needs most."""

_COLUMNS = ("Optimizer", "Expected cost", "Success", "Time", "Bytes", "Memory")
"""Of the main table, as far as it has them."""


def markdown(output: Output) -> str:
    """Writes the summary: decisions, the main numbers at the largest N, findings, caveats."""
    suites = [chapter.suite for chapter in output.chapters]
    lines = [f"## {escaped(units.listing([suite.name for suite in suites]))}: what it costs to "
             "reach the target", ""]
    for warning in output.warnings:
        lines += [f"**{escaped(warning[:1].upper() + warning[1:])}.**", ""]
    for chapter in output.chapters:
        lines += _decisions(chapter)
    for chapter in output.chapters:
        lines += _numbers(chapter)
    for chapter in output.chapters:
        lines += [f"* {escaped(part.title)}: {escaped(part.finding)}"
                  for part in chapter.parts if part.finding]
    lines += [f"* {escaped(part.title)}: {escaped(part.finding)}" for part in output.overall]
    titles = dict.fromkeys(caveat.title for caveat in output.caveats)
    if titles:
        lines += ["", f"Read with care: {escaped('; '.join(titles))}."]
    commit = output.gathered.file.environment.get("commit")
    lines += ["", f"{units.plural(len(output.gathered.trials), 'trial')}, run "
              f"{output.gathered.file.created[:10]}"
              + (f" at commit `{str(commit)[:12]}`" if commit else "") + "."]
    if len(lines) > LINES:
        lines = [*lines[:LINES - 2], "", "… The rest stands in report.html."]
    # A thin space is no space to whoever searches the text for a number and its unit.
    return "\n".join(lines).replace(units.THIN, " ") + "\n"


def _decisions(chapter: Chapter) -> list[str]:
    """A table of the answers: a row for each N, a column for each question."""
    boxes = [box for block in chapter.decision.blocks if isinstance(block, Boxes)
             for box in block.boxes]
    lines = [f"**{escaped(chapter.suite.name)}**, {escaped(units.goal(chapter.suite.target))}:",
             ""]
    lines += [f"* {escaped(box.heading)}: {escaped(box.headline)}" for box in boxes]
    questions = list(dict.fromkeys(a.question for box in boxes for a in box.answers))
    if not questions:
        return [*lines, ""]
    lines += ["", line(("", *map(escaped, questions))), line(("---",) * (len(questions) + 1))]
    for box in boxes:
        choices = {answer.question: answer.choice for answer in box.answers}
        lines.append(line((escaped(box.heading), *(escaped(choices.get(question, units.NONE))
                                                   for question in questions))))
    return [*lines, ""]


def _numbers(chapter: Chapter) -> list[str]:
    """The main table's rows at the largest N."""
    found = [block.table for part in chapter.parts for block in part.blocks
             if isinstance(block, Listing) and block.table.name == "main"]
    if not found:
        return []
    table: Table = found[0]
    largest = max(_ranks(row) for row in table.rows)
    columns = [at for at, (title, _) in enumerate(table.head) if title in _COLUMNS]
    heads = [table.head[at] for at in columns]
    lines = [f"{escaped(chapter.suite.name)} at N = {largest}:", "",
             line([escaped(" ".join(filter(None, head))) for head in heads]),
             line(["---", *("---:" for _ in heads[1:])])]
    lines += [line([escaped(row[at].text) for at in columns])
              for row in table.rows if _ranks(row) == largest]
    return [*lines, ""]


def _ranks(row: tuple[Value, ...]) -> int:
    return next(int(value.numbers["ranks"]) for value in row  # type: ignore[arg-type]
                if "ranks" in value.numbers)
