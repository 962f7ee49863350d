"""Base and head in turns on one machine: old-new-new-old, new-old-old-new, and so on.

A stored study as the baseline: head trains its final trainings again, with equal seeds.

Nothing is interleaved, so times only inform: machines differ from one day to the next by more than
any factor that is worth a gate.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench_apts.core import environment, store, trial_files
from bench_apts.core.configuration import parse_selector
from bench_apts.core.errors import UserError
from bench_apts.core.spec import canonical
from bench_apts.regress import gate_findings
from bench_apts.regress.gate_findings import GateFinding, GateResult, Timing
from bench_apts.regress.gate_trainings import (
    GateCell,
    GateRequest,
    TrainingFailed,
    by_cell,
    cell_of,
    failed_trial,
    train,
)
from bench_apts.stats import trial_origins
from bench_apts.stats.timing_noise import Ratios, settle_slowdowns
from bench_apts.study import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.regress.gate_findings import Clock
    from bench_apts.regress.gate_trainings import CodeTree, GateCell
    Run = Mapping[GateCell, TrialRecord]
    Key = tuple[GateCell, Clock]
    from bench_apts.core.spec import Scalar, Suite, Trial

class InterleavedBlock(NamedTuple):
    """Four runs with equal seeds: the earlier and the later one of each tree."""

    base: tuple[Run, Run]
    head: tuple[Run, Run]

    def ratios(self, key: Key) -> tuple[tuple[float, float], tuple[float, float]]:
        """Returns the logarithms of two ratios of head to base, and of two of equal code."""
        one, two, three, four = (_pace(run[key[0]], key[1]) for run in (*self.base, *self.head))
        # Of equal code the later run over the earlier and the reverse, as it is with the pairs.
        return ((math.log(three / one), math.log(four / two)),
                (math.log(two / one), math.log(three / four)))

    def failures(self, cell: GateCell) -> tuple[str, str]:
        """Says how base and head came to no answer, "" where they did not fail."""
        base = [failed_trial(run[cell]) if cell in run else "not run" for run in self.base]
        head = [failed_trial(run[cell], beside.get(cell)) if cell in run else "not run"
                for run, beside in zip(self.head, self.base, strict=True)]
        return next(filter(None, base), ""), next(filter(None, head), "")


def compare_interleaved(
    base: CodeTree,
    head: CodeTree,
    asked: GateRequest,
    folder: Path,
    *,
    pairs: int,
    factor: float,
    base_seed: int,
    told: Callable[[str], None],
) -> GateResult:
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
    blocks: list[InterleavedBlock] = []

    def run(part: GateRequest) -> None:
        blocks.append(_block(base, head, part, folder, len(blocks),
                             base_seed + len(blocks), told))

    try:
        run(asked)
        findings = _findings(blocks, factor)
        if any(finding.regressed for finding in findings):
            return GateResult(base.told, head.told, tuple(findings),
                          ("times were not judged, as head is worse without them",))
        if all(finding.unjudged for finding in findings):
            return GateResult(base.told, head.told, tuple(findings), ())
        keys = [(f.cell, clock) for f in findings if not f.unjudged
                for clock in _clocks(blocks[0].base[0][f.cell])]

        def measure(wanted: Sequence[Key], number: int) -> dict[Key, Ratios]:
            cells = {cell for cell, _ in wanted}
            while 2 * len(blocks) < number:
                run(_narrowed(asked, cells) if len(wanted) < len(keys) else asked)
            return {key: _ratios(blocks, key) for key in wanted}

        slowdowns = settle_slowdowns(keys, measure, pairs, factor)
    except TrainingFailed as error:
        return GateResult(base.told, head.told, (), (), f"head does not run: {error}")
    findings = _findings(blocks, factor)
    for finding in findings:
        finding.timings = [Timing(clock, slowdown) for (cell, clock), slowdown
                           in slowdowns.items() if cell == finding.cell]
    return GateResult(
        base.told, head.told, tuple(findings), tuple(_interleaved_notes(blocks, findings))
    )


def _block(
    base: CodeTree,
    head: CodeTree,
    asked: GateRequest,
    folder: Path,
    number: int,
    seed: int,
    told: Callable[[str], None],
) -> InterleavedBlock:
    order = (base, head, head, base) if number % 2 == 0 else (head, base, base, head)
    runs: dict[str, list[Run]] = {base.name: [], head.name: []}
    for place, tree in enumerate(order, 1):
        told(f"block {number + 1}, run {place} of 4: {tree.name}")
        try:
            records = train(tree, asked, folder / f"{number + 1:02}-{place}-{tree.name}",
                            base_seed=seed)
        except TrainingFailed as error:
            if tree is head:
                raise
            raise UserError(f"base {base.told} does not run: {error}") from error
        runs[tree.name].append(by_cell(records))
    return InterleavedBlock((runs[base.name][0], runs[base.name][1]),
                 (runs[head.name][0], runs[head.name][1]))


def _narrowed(asked: GateRequest, cells: set[GateCell]) -> GateRequest:
    """Leaves out optimizers and world sizes of which nothing is asked any more."""
    labels = {cell.label for cell in cells}
    return dataclasses.replace(
        asked, ranks=tuple(n for n in asked.ranks if n in {c.ranks for c in cells}),
        optimizers=tuple(o for o in asked.optimizers if _block_label(o) in labels))


def _block_label(selector: str) -> str:
    """Returns what records call a competitor; only a plug-in file has to be asked."""
    named = parse_selector(selector)
    return (
        resolve.resolve_entry(selector)[0].label
        if named.optimizer.endswith(".py")
        else named.label
    )


def _findings(blocks: Sequence[InterleavedBlock], factor: float) -> list[GateFinding]:
    """Judges everything but times."""
    found = []
    for cell in sorted({*blocks[0].base[0], *blocks[0].head[0]},
                       key=lambda cell: (cell.suite, cell.ranks, cell.label)):
        finding = GateFinding(cell, factor)
        held = [b for b in blocks if cell in {**b.base[0], **b.head[0]}]
        failures = [block.failures(cell) for block in held]
        finding.unjudged = next((f"base failed ({one})" for one, _ in failures if one), "")
        if not finding.unjudged:
            finding.failed = next((two for _, two in failures if two), "")
        if not finding.unjudged and not finding.failed:
            pairs = [(b.base[0][cell], b.head[0][cell]) for b in held]
            finding.unjudged = gate_findings.uncounted(pairs)
            finding.course, finding.counts = (
                gate_findings.gate_curve(pairs),
                gate_findings.counts(pairs),
            )
        found.append(finding)
    return found


def _ratios(blocks: Sequence[InterleavedBlock], key: Key) -> Ratios:
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


def _interleaved_notes(
    blocks: Sequence[InterleavedBlock], findings: Sequence[GateFinding]
) -> Iterator[str]:
    odd = [f.cell.where for f in findings if not f.unjudged and not f.failed and any(
        gate_findings.gate_curve([(b.base[0][f.cell], b.base[1][f.cell])]) == "another course"
        for b in blocks if f.cell in b.base[0])]
    dark = [f.cell.where for f in findings if not f.unjudged and not f.failed
            and gate_findings.undetectable(blocks[0].base[0][f.cell])]
    if dark:
        yield f"nothing counts the traffic of {', '.join(dark)}, in base as in head"
    if odd:
        yield f"base does not repeat itself with equal seeds: {', '.join(odd)}"
    alone = sorted({f.cell.ranks for f in findings if f.timings and all(
        timing.clock == "CPU time" for timing in f.timings)})
    if alone:
        yield (f"at N = {', '.join(map(str, alone))} only CPU time is judged, as "
               f"{environment.usable_cores():g} cores are fewer than the ranks")


def compare_with_stored(
    baseline: Path,
    head: CodeTree,
    folder: Path,
    *,
    factor: float,
    data_dir: Path | None,
    offline: bool,
    told: Callable[[str], None],
) -> GateResult:
    """Compares a stored study with head.

    Args:
        baseline: The results folder.
        head: The new code.
        folder: Where head's results go.
        factor: Ratio up to which what depends on the seed does not count as worse.
        data_dir: Folder with data sets; None for the default.
        offline: Whether downloading is forbidden.
        told: Is told of every run in a line.

    Raises:
        UserError: The study has no final training that ended, or head cannot repeat it.
    """
    file = store.read_study(baseline)
    read = store.read_trial_files(baseline)
    stored = [r for r in read.records if r.trial.stage == "report"
              and not r.trial.twin and not failed_trial(r)]
    if not stored:
        raise UserError(f"{baseline} has no final training that came to an answer; give "
                        "--baseline a study that `bench-apts run` has finished")
    seeds = max(r.trial.repetition for r in stored) + 1
    found: dict[Any, TrialRecord] = {}
    for number, (suite, group) in enumerate(_groups(stored).items(), 1):
        told(f"run {number}: head, {suite[0]} at N = {suite[1]}")
        place = folder / f"suite-{number:02}.toml"
        place.write_text(_toml(group[0].trial.suite), encoding="utf-8")
        selectors = dict.fromkeys(_selector(r.trial) for r in group)
        asked = GateRequest((str(place),), (suite[1],), tuple(selectors), (), data_dir, offline)
        try:
            records = train(head, asked, folder / f"{number:02}-head", seeds=seeds,
                            base_seed=file.study.base_seed)
        except TrainingFailed as error:
            raise UserError(f"head {head.told} cannot repeat {baseline}: {error}") from error
        found |= {_key(r.trial): r for r in records}
    missing = [r for r in stored if _key(r.trial) not in found]
    if missing:
        trial = missing[0].trial
        raise UserError(f"head {head.told} trains {trial.label} on {trial.suite.name} at N = "
                        f"{trial.ranks} with other seeds or data than {baseline}; make the "
                        "baseline again")
    pairs: dict[GateCell, list[tuple[TrialRecord, TrialRecord]]] = defaultdict(list)
    for record in stored:
        pairs[cell_of(record.trial)].append((record, found[_key(record.trial)]))
    return GateResult(f"the study {baseline}", head.told,
                  tuple(_finding(cell, of, factor) for cell, of in pairs.items()),
                  (*_copies(read), *_stored_notes(stored, pairs)))


def _groups(stored: Sequence[TrialRecord]) -> dict[tuple[str, int, bytes], list[TrialRecord]]:
    """Places trials of one suite at one N together; their configurations may differ elsewhere."""
    found: dict[tuple[str, int, bytes], list[TrialRecord]] = defaultdict(list)
    for record in stored:
        suite = record.trial.suite
        found[suite.name, record.trial.ranks, canonical(suite)].append(record)
    return found


def _finding(cell: GateCell, pairs: Sequence[tuple[TrialRecord, TrialRecord]],
             factor: float) -> GateFinding:
    finding = GateFinding(cell, factor)
    finding.failed = next(filter(None, (failed_trial(head, base) for base, head in pairs)), "")
    if not finding.failed:
        finding.unjudged = gate_findings.uncounted(pairs)
        finding.course, finding.counts = (
            gate_findings.gate_curve(pairs),
            gate_findings.counts(pairs),
        )
    return finding


def _copies(read: trial_files.StoredTrials) -> list[str]:
    return [trial_files.left_out(read.copies)] if read.copies else []


def _stored_notes(stored: Sequence[TrialRecord],
           pairs: dict[GateCell, list[tuple[TrialRecord, TrialRecord]]]) -> Iterator[str]:
    cards = {trial_origins.origin_card(record.header.environment) for record in stored}
    other = trial_origins.describe_origins(trial_origins.origin_differences(
        [*cards, trial_origins.origin_card(environment.environment_card())], trial_origins.CODE))
    yield ("times are not judged, as the baseline was not run in turns with head"
           + (f", and in another environment: {other}" if other else ""))
    for cell, of in pairs.items():
        ratios = [head.evals[-1].train_s / base.evals[-1].train_s for base, head in of
                  if head.evals and base.evals[-1].train_s]
        if ratios:
            yield (f"{cell.where}: {statistics.median(ratios):.2f} times the stored training "
                   f"time (median of {len(ratios)})")


def _key(trial: Trial) -> tuple[object, ...]:
    return (canonical(trial.suite), trial.ranks, trial.optimizer, canonical(trial.hyperparameters),
            trial.repetition, trial.seeds, trial.data_sha256)


def _selector(trial: Trial) -> str:
    """Writes a configuration as ``--optimizers`` takes it, with nothing left to defaults."""
    name = trial.plugin if trial.plugin.endswith(".py") else trial.optimizer
    pairs = (f"{key}={_scalar(value)}" for key, value in trial.hyperparameters.items())
    return f"{name}[{','.join(pairs)}]"


def _scalar(value: Scalar) -> str:
    return json.dumps(value)  # but for strings that hold a comma or bracket, which nothing can pin


def _toml(suite: Suite) -> str:
    """Writes a suite as a file; JSON's values are TOML's too."""
    lines: list[str] = []

    def write(prefix: str, table: dict[str, Any]) -> None:
        for key, value in table.items():
            name = f"{prefix}{json.dumps(key)}"
            if isinstance(value, dict) and value:
                write(f"{name}.", value)
            else:
                lines.append(f"{name} = {json.dumps(value)}")

    write("", msgspec.to_builtins(suite))
    return "\n".join(lines) + "\n"
