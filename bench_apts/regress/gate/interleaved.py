"""Base and head in turns on one machine: old-new-new-old, new-old-old-new, and so on."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import environment
from bench_apts.core.errors import UserError
from bench_apts.core.selectors import parse_selector
from bench_apts.regress.gate import counts
from bench_apts.regress.gate.findings import Finding, Judged, Timing
from bench_apts.regress.gate.runs import Failed, by_cell, failure, train
from bench_apts.stats.slowdown import Ratios, settle
from bench_apts.study import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.regress.gate.findings import Clock
    from bench_apts.regress.gate.runs import Asked, Cell
    from bench_apts.regress.gate.trees import Tree

    Run = Mapping[Cell, TrialRecord]
    Key = tuple[Cell, Clock]


class Block(NamedTuple):
    """Four runs with equal seeds: the earlier and the later one of each tree."""

    base: tuple[Run, Run]
    head: tuple[Run, Run]

    def ratios(self, key: Key) -> tuple[tuple[float, float], tuple[float, float]]:
        """Returns the logarithms of two ratios of head to base, and of two of equal code."""
        one, two, three, four = (_pace(run[key[0]], key[1]) for run in (*self.base, *self.head))
        # Of equal code the later run over the earlier and the reverse, as it is with the pairs.
        return ((math.log(three / one), math.log(four / two)),
                (math.log(two / one), math.log(three / four)))

    def failures(self, cell: Cell) -> tuple[str, str]:
        """Says how base and head came to no answer, "" where they did not fail."""
        base = [failure(run[cell]) if cell in run else "not run" for run in self.base]
        head = [failure(run[cell], beside.get(cell)) if cell in run else "not run"
                for run, beside in zip(self.head, self.base, strict=True)]
        return next(filter(None, base), ""), next(filter(None, head), "")


def judge(base: Tree, head: Tree, asked: Asked, folder: Path, *, pairs: int, factor: float,
          base_seed: int, told: Callable[[str], None]) -> Judged:
    """Compares two trees.

    Counts are told from the first block; where they have grown, times are not judged.

    Args:
        base: The old code.
        head: The new code.
        asked: What both train.
        folder: Where the results go.
        pairs: How many of each comparison to begin with.
        factor: Ratio up to which what scatters does not count as worse.
        base_seed: What the first block's seeds are derived from; later ones count on from it.
        told: Is told of every run in a line.

    Raises:
        UserError: Base does not run.
    """
    blocks: list[Block] = []

    def run(part: Asked) -> None:
        blocks.append(_block(base, head, part, folder, len(blocks),
                             base_seed + len(blocks), told))

    try:
        run(asked)
        findings = _findings(blocks, factor)
        if any(finding.regressed for finding in findings):
            return Judged(base.told, head.told, tuple(findings),
                          ("times were not judged, as head is worse without them",))
        if all(finding.unjudged for finding in findings):
            return Judged(base.told, head.told, tuple(findings), ())
        keys = [(f.cell, clock) for f in findings if not f.unjudged
                for clock in _clocks(blocks[0].base[0][f.cell])]

        def measure(wanted: Sequence[Key], number: int) -> dict[Key, Ratios]:
            cells = {cell for cell, _ in wanted}
            while 2 * len(blocks) < number:
                run(_narrowed(asked, cells) if len(wanted) < len(keys) else asked)
            return {key: _ratios(blocks, key) for key in wanted}

        slowdowns = settle(keys, measure, pairs, factor)
    except Failed as error:
        return Judged(base.told, head.told, (), (), f"head does not run: {error}")
    findings = _findings(blocks, factor)
    for finding in findings:
        finding.timings = [Timing(clock, slowdown) for (cell, clock), slowdown
                           in slowdowns.items() if cell == finding.cell]
    return Judged(base.told, head.told, tuple(findings), tuple(_notes(blocks, findings)))


def _block(base: Tree, head: Tree, asked: Asked, folder: Path, number: int, seed: int,
           told: Callable[[str], None]) -> Block:
    order = (base, head, head, base) if number % 2 == 0 else (head, base, base, head)
    runs: dict[str, list[Run]] = {base.name: [], head.name: []}
    for place, tree in enumerate(order, 1):
        told(f"block {number + 1}, run {place} of 4: {tree.name}")
        try:
            records = train(tree, asked, folder / f"{number + 1:02}-{place}-{tree.name}",
                            base_seed=seed)
        except Failed as error:
            if tree is head:
                raise
            raise UserError(f"base {base.told} does not run: {error}") from error
        runs[tree.name].append(by_cell(records))
    return Block((runs[base.name][0], runs[base.name][1]),
                 (runs[head.name][0], runs[head.name][1]))


def _narrowed(asked: Asked, cells: set[Cell]) -> Asked:
    """Leaves out optimizers and world sizes of which nothing is asked any more."""
    labels = {cell.label for cell in cells}
    return dataclasses.replace(
        asked, ranks=tuple(n for n in asked.ranks if n in {c.ranks for c in cells}),
        optimizers=tuple(o for o in asked.optimizers if _label(o) in labels))


def _label(selector: str) -> str:
    """Returns what records call a competitor; only a plug-in file has to be asked."""
    named = parse_selector(selector)
    return resolve.entry(selector)[0].label if named.optimizer.endswith(".py") else named.label


def _findings(blocks: Sequence[Block], factor: float) -> list[Finding]:
    """Judges everything but times."""
    found = []
    for cell in sorted({*blocks[0].base[0], *blocks[0].head[0]},
                       key=lambda cell: (cell.suite, cell.ranks, cell.label)):
        finding = Finding(cell, factor)
        held = [b for b in blocks if cell in {**b.base[0], **b.head[0]}]
        failures = [block.failures(cell) for block in held]
        finding.unjudged = next((f"base failed ({one})" for one, _ in failures if one), "")
        if not finding.unjudged:
            finding.failed = next((two for _, two in failures if two), "")
        if not finding.unjudged and not finding.failed:
            pairs = [(b.base[0][cell], b.head[0][cell]) for b in held]
            finding.unjudged = counts.uncounted(pairs)
            finding.course, finding.counts = counts.course(pairs), counts.counts(pairs)
        found.append(finding)
    return found


def _ratios(blocks: Sequence[Block], key: Key) -> Ratios:
    held = [b.ratios(key) for b in blocks if key[0] in b.base[0] and not any(b.failures(key[0]))]
    return Ratios([log for pairs, _ in held for log in pairs],
                  [log for _, equal in held for log in equal])


def _clocks(record: TrialRecord) -> tuple[Clock, ...]:
    """Which clocks say something of the code (docs/measurement.md, 2)."""
    if record.trial.device == "cuda":
        return ("training time",)
    if record.trial.ranks > environment.usable_cores():  # the wall clock measures the machine
        return ("CPU time",)
    return "training time", "CPU time"


def _pace(record: TrialRecord, clock: Clock) -> float:
    """Seconds of training per sample."""
    last = record.evals[-1]
    return (last.train_s if clock == "training time" else last.cpu_s) / last.samples


def _notes(blocks: Sequence[Block], findings: Sequence[Finding]) -> Iterator[str]:
    odd = [f.cell.where for f in findings if not f.unjudged and not f.failed and any(
        counts.course([(b.base[0][f.cell], b.base[1][f.cell])]) == "another course"
        for b in blocks if f.cell in b.base[0])]
    dark = [f.cell.where for f in findings if not f.unjudged and not f.failed
            and counts.blind(blocks[0].base[0][f.cell])]
    if dark:
        yield f"nothing counts the traffic of {', '.join(dark)}, in base as in head"
    if odd:
        yield f"base does not repeat itself with equal seeds: {', '.join(odd)}"
    alone = sorted({f.cell.ranks for f in findings if f.timings and all(
        timing.clock == "CPU time" for timing in f.timings)})
    if alone:
        yield (f"at N = {', '.join(map(str, alone))} only CPU time is judged, as "
               f"{environment.usable_cores():g} cores are fewer than the ranks")
