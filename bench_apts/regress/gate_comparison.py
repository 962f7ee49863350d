"""Compares the code in the working tree with a revision, or with a stored study.

A revision and the working tree run in turns on one machine, each by the ordinary study code of
its own tree: base-head-head-base, then head-base-base-head, and so on, so that a steady drift of
the machine cancels. A stored study is not interleaved with anything: head runs its final
trainings again with equal seeds, and times only inform, as machines differ from one day to the
next by more than any factor that is worth a gate.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import tomlkit

from bench_apts.core import environment, store, trial_files
from bench_apts.core.configuration import parse_selector
from bench_apts.core.errors import UserError
from bench_apts.core.spec import canonical
from bench_apts.regress import gate_findings, gate_trainings
from bench_apts.regress.gate_findings import GateFinding, GateResult, QualityChange, Timing
from bench_apts.stats import trial_origins
from bench_apts.stats.timing_noise import Ratios, settle_slowdowns
from bench_apts.study import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial
    from bench_apts.regress.gate_findings import Clock, Pairs
    from bench_apts.regress.gate_trainings import CodeTree

    Run = Mapping[gate_trainings.GateCell, TrialRecord]
    TimeKey = tuple[gate_trainings.GateCell, Clock]


class InterleavedBlock(NamedTuple):
    """Four runs with equal seeds: the earlier and the later one of each tree."""

    base: tuple[Run, Run]
    head: tuple[Run, Run]

    def ratios(self, key: TimeKey) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the logarithms of two ratios of head to base, and of two of equal code."""
        one, two, three, four = (_pace(run[key[0]], key[1]) for run in (*self.base, *self.head))
        # Of equal code the later run over the earlier and the reverse, as it is with the pairs.
        return ((math.log(three / one), math.log(four / two)),
                (math.log(two / one), math.log(three / four)))

    def failures(self, cell: gate_trainings.GateCell) -> tuple[str, str]:
        """Return why base and head have no answer, "" where they did not fail."""
        base = [
            gate_trainings.failed_trial(run[cell]) if cell in run else "not run"
            for run in self.base
        ]
        head = [
            gate_trainings.failed_trial(run[cell], other.get(cell)) if cell in run else "not run"
            for run, other in zip(self.head, self.base, strict=True)
        ]
        return next(filter(None, base), ""), next(filter(None, head), "")


def compare_interleaved(
    base: CodeTree,
    head: CodeTree,
    request: gate_trainings.GateRequest,
    folder: Path,
    *,
    pairs: int,
    factor: float,
    base_seed: int,
    say: Callable[[str], None],
    tolerated: float = gate_findings.TOLERATED_LOSS,
) -> GateResult:
    """Compare two trees.

    Counts are judged from the first block; where they have grown, nothing else is. Quality is
    judged where courses differ, by trainings of its own, and then times.

    Args:
        base: The old code.
        head: The new code.
        request: What both train.
        folder: Where the results go.
        pairs: How many of each comparison to begin with.
        factor: Ratio up to which what scatters does not count as worse.
        base_seed: What the first block's seeds are derived from; later ones count on from it.
        say: Shows a line for every run.
        tolerated: Loss of quality that does not count, as a share of base's.

    Raises:
        UserError: Base does not run.
    """
    blocks: list[InterleavedBlock] = []

    def result(notes: Iterator[str] | tuple[str, ...] = ()) -> GateResult:
        return GateResult(base.text, head.text, tuple(findings), tuple(notes))

    def run(part: gate_trainings.GateRequest) -> None:
        blocks.append(_run_block(base, head, part, folder, len(blocks), base_seed + len(blocks),
                                 say))

    def measure(wanted: Sequence[TimeKey], number: int) -> dict[TimeKey, Ratios]:
        cells = {cell for cell, _ in wanted}
        while 2 * len(blocks) < number:
            run(_narrowed(request, cells) if len(wanted) < len(keys) else request)
        return {key: _ratios(blocks, key) for key in wanted}

    try:
        run(request)
        findings = _judge_blocks(blocks, factor)
        if any(finding.regressed for finding in findings):
            return result(("times were not judged, as head is worse without them",))
        if all(finding.unjudged for finding in findings):
            return result()
        qualities = _compare_quality(base, head, request, findings, folder, base_seed, say)
        _note_quality(findings, qualities, tolerated)
        if any(finding.regressed for finding in findings):
            return result(("times were not judged, as head is worse without them",))
        keys = [(f.cell, clock) for f in findings if not f.unjudged
                for clock in _clocks(blocks[0].base[0][f.cell])]
        slowdowns = settle_slowdowns(keys, measure, pairs, factor)
    except gate_trainings.TrainingFailed as error:
        return GateResult(base.text, head.text, (), (), f"head does not run: {error}")
    findings = _judge_blocks(blocks, factor)
    _note_quality(findings, qualities, tolerated)
    for finding in findings:
        finding.timings = [Timing(clock, slowdown) for (cell, clock), slowdown
                           in slowdowns.items() if cell == finding.cell]
    return result(_interleaved_notes(blocks, findings))


def _compare_quality(
    base: CodeTree, head: CodeTree, request: gate_trainings.GateRequest,
    findings: Sequence[GateFinding], folder: Path, base_seed: int, say: Callable[[str], None],
) -> dict[gate_trainings.GateCell, QualityChange]:
    """Train both trees with several equal seeds where they take another course."""
    cells = {f.cell for f in findings if f.course == "another course" and not f.unjudged}
    if not cells:
        return {}
    part, pairs = _narrowed(request, cells), defaultdict(list)
    for tree in (base, head):
        say(f"quality, {tree.name}: {gate_findings.QUALITY_SEEDS} seeds")
        records = _train_or_refuse(
            tree, head, part, folder / f"quality-{tree.name}", base_seed,
            gate_findings.QUALITY_SEEDS)
        for record in records:
            pairs[gate_trainings.cell_of(record.trial), record.trial.repetition].append(record)
    by_cell: dict[gate_trainings.GateCell, list[tuple[TrialRecord, TrialRecord]]] = (
        defaultdict(list))
    for (cell, _), pair in pairs.items():
        if cell in cells and len(pair) == 2:
            by_cell[cell].append((pair[0], pair[1]))
    judged = {cell: gate_findings.quality(of) for cell, of in by_cell.items()}
    return {cell: found for cell, found in judged.items() if found is not None}


def _note_quality(findings: Sequence[GateFinding],
                  qualities: Mapping[gate_trainings.GateCell, QualityChange], tolerated: float
                  ) -> None:
    for finding in findings:
        finding.quality, finding.tolerated = qualities.get(finding.cell), tolerated


def _train_or_refuse(
    tree: CodeTree, head: CodeTree, request: gate_trainings.GateRequest, out: Path, seed: int,
    seeds: int = 1,
) -> list[TrialRecord]:
    """Run a study; that base does not run is no verdict on head.

    Raises:
        TrainingFailed: Head does not run.
        UserError: Base does not run.
    """
    try:
        return gate_trainings.train(tree, request, out, seeds=seeds, base_seed=seed)
    except gate_trainings.TrainingFailed as error:
        if tree is head:
            raise
        raise UserError(f"base {tree.text} does not run: {error}") from error


def _run_block(
    base: CodeTree,
    head: CodeTree,
    request: gate_trainings.GateRequest,
    folder: Path,
    number: int,
    seed: int,
    say: Callable[[str], None],
) -> InterleavedBlock:
    order = (base, head, head, base) if number % 2 == 0 else (head, base, base, head)
    runs: dict[str, list[Run]] = {base.name: [], head.name: []}
    for place, tree in enumerate(order, 1):
        say(f"block {number + 1}, run {place} of 4: {tree.name}")
        records = _train_or_refuse(
            tree, head, request, folder / f"{number + 1:02}-{place}-{tree.name}", seed)
        runs[tree.name].append(
            {gate_trainings.cell_of(record.trial): record for record in records}
        )
    (old, old_again), (new, new_again) = runs[base.name], runs[head.name]
    return InterleavedBlock((old, old_again), (new, new_again))


def _narrowed(
    request: gate_trainings.GateRequest, cells: set[gate_trainings.GateCell]
) -> gate_trainings.GateRequest:
    """Leave out optimizers and world sizes that are judged already."""
    def label(selector: str) -> str:
        named = parse_selector(selector)
        return (resolve.resolve_entry(selector)[0].label  # the file has to be asked
                if named.optimizer.endswith(".py") else named.label)

    labels, ranks = {cell.label for cell in cells}, {cell.ranks for cell in cells}
    return dataclasses.replace(
        request, ranks=tuple(n for n in request.ranks if n in ranks),
        optimizers=tuple(o for o in request.optimizers if label(o) in labels))


def _judge_blocks(blocks: Sequence[InterleavedBlock], factor: float) -> list[GateFinding]:
    """Judge everything but times."""
    found = []
    for cell in sorted({*blocks[0].base[0], *blocks[0].head[0]},
                       key=lambda cell: (cell.suite, cell.ranks, cell.label)):
        held = [b for b in blocks if cell in {**b.base[0], **b.head[0]}]
        base_failed, head_failed = (next(filter(None, side), "") for side in zip(
            *(block.failures(cell) for block in held), strict=True))
        if base_failed:
            found.append(GateFinding(cell, factor, unjudged=f"base failed ({base_failed})"))
        elif head_failed:
            found.append(GateFinding(cell, factor, failed=head_failed))
        else:
            found.append(gate_findings.judge_counts(
                cell, factor, [(block.base[0][cell], block.head[0][cell]) for block in held]))
    return found


def _ratios(blocks: Sequence[InterleavedBlock], key: TimeKey) -> Ratios:
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


def _interleaved_notes(blocks: Sequence[InterleavedBlock], findings: Sequence[GateFinding]
                       ) -> Iterator[str]:
    judged = [f.cell for f in findings if not f.unjudged and not f.failed]
    uncounted = [cell.where for cell in judged if blocks[0].base[0][cell].uncounted]
    if uncounted:
        yield f"nothing counts the traffic of {', '.join(uncounted)}, in base as in head"
    varying = [cell.where for cell in judged if any(
        gate_findings.gate_curve([(b.base[0][cell], b.base[1][cell])]) == "another course"
        for b in blocks if cell in b.base[0])]
    if varying:
        yield f"base does not repeat itself with equal seeds: {', '.join(varying)}"
    alone = sorted({f.cell.ranks for f in findings if f.timings and all(
        timing.clock == "CPU time" for timing in f.timings)})
    if alone:
        yield (f"at N = {', '.join(map(str, alone))} only CPU time is judged, as "
               f"{environment.usable_cores():g} cores are fewer than the ranks")


def compare_with_stored(
    baseline: Path, head: CodeTree, folder: Path, *, factor: float, data_dir: Path | None,
    offline: bool, say: Callable[[str], None],
) -> GateResult:
    """Compare a stored study with head.

    Args:
        baseline: The results folder.
        head: The new code.
        folder: Where head's results go.
        factor: Ratio up to which what depends on the seed does not count as worse.
        data_dir: Folder with data sets; None for the default.
        offline: Whether downloading is forbidden.
        say: Shows a line for every run.

    Raises:
        UserError: The study has no final training that ended, or head cannot repeat it.
    """
    base_seed = store.read_study(baseline).study.base_seed
    read = store.read_trial_files(baseline)
    stored = [r for r in read.records if r.trial.stage == "report"
              and not r.trial.twin and not gate_trainings.failed_trial(r)]
    if not stored:
        raise UserError(f"{baseline} has no final training that came to an answer; give "
                        "--baseline a study that `bench-apts run` has finished")
    seeds = max(r.trial.repetition for r in stored) + 1
    # Trials of one suite at one N run together; their configurations may differ elsewhere.
    groups: dict[tuple[str, int, bytes], list[TrialRecord]] = defaultdict(list)
    for record in stored:
        suite = record.trial.suite
        groups[suite.name, record.trial.ranks, canonical(suite)].append(record)
    repeated: dict[tuple[object, ...], TrialRecord] = {}
    for number, ((name, ranks, _), group) in enumerate(groups.items(), 1):
        say(f"run {number}: head, {name} at N = {ranks}")
        file = folder / f"suite-{number:02}.toml"
        file.write_text(tomlkit.dumps(msgspec.to_builtins(group[0].trial.suite)), "utf-8")
        selectors = tuple(dict.fromkeys(_selector(r.trial) for r in group))
        request = gate_trainings.GateRequest(
            (str(file),), (ranks,), selectors, (), data_dir, offline
        )
        try:
            records = gate_trainings.train(
                head, request, folder / f"{number:02}-head", seeds=seeds, base_seed=base_seed
            )
        except gate_trainings.TrainingFailed as error:
            raise UserError(f"head {head.text} cannot repeat {baseline}: {error}") from error
        repeated |= {_key(r.trial): r for r in records}
    pairs: dict[gate_trainings.GateCell, list[tuple[TrialRecord, TrialRecord]]] = defaultdict(list)
    for record in stored:
        trial = record.trial
        if _key(trial) not in repeated:
            raise UserError(f"head {head.text} trains {trial.label} on {trial.suite.name} at N = "
                            f"{trial.ranks} with other seeds or data than {baseline}; make the "
                            "baseline again")
        pairs[gate_trainings.cell_of(trial)].append((record, repeated[_key(trial)]))
    findings = []
    for cell, of in pairs.items():
        failed = next(filter(None, (gate_trainings.failed_trial(new, old) for old, new in of)), "")
        findings.append(GateFinding(cell, factor, failed=failed) if failed
                        else gate_findings.judge_counts(cell, factor, of))
    copies = (trial_files.left_out(read.copies),) if read.copies else ()
    return GateResult(f"the study {baseline}", head.text, tuple(findings),
                      (*copies, *_stored_notes(stored, pairs)))


def _stored_notes(stored: Sequence[TrialRecord], pairs: Mapping[gate_trainings.GateCell, Pairs]
                  ) -> Iterator[str]:
    cards = {trial_origins.origin_card(record.header.environment) for record in stored}
    other = trial_origins.describe_origins(trial_origins.origin_differences(
        [*cards, trial_origins.origin_card(environment.environment_card())],
        trial_origins.CODE_TRAITS))
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
    """Write a configuration as ``--optimizers`` takes it, with nothing left to defaults."""
    # JSON's scalars but strings with a comma or bracket, which nothing can pin, are a selector's.
    pairs = (f"{key}={json.dumps(value)}" for key, value in trial.hyperparameters.items())
    return f"{trial.optimizer_reference}[{','.join(pairs)}]"
