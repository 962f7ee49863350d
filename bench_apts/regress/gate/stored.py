"""A stored study as the baseline: head trains its final trainings again, with equal seeds.

Nothing is interleaved, so times only inform: machines differ from one day to the next by more than
any factor that is worth a gate.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core import environment, store, trial_files
from bench_apts.core.errors import UserError
from bench_apts.core.spec import canonical
from bench_apts.regress.gate import counts
from bench_apts.regress.gate.findings import Finding, Judged
from bench_apts.regress.gate.runs import Asked, Cell, Failed, cell_of, failure, train
from bench_apts.stats import origins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Scalar, Suite, Trial
    from bench_apts.regress.gate.trees import Tree

def judge(baseline: Path, head: Tree, folder: Path, *, factor: float, data_dir: Path | None,
          offline: bool, told: Callable[[str], None]) -> Judged:
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
    read = trial_files.read(baseline)
    stored = [r for r in read.records if r.trial.stage == "report"
              and not r.trial.twin and not failure(r)]
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
        asked = Asked((str(place),), (suite[1],), tuple(selectors), (), data_dir, offline)
        try:
            records = train(head, asked, folder / f"{number:02}-head", seeds=seeds,
                            base_seed=file.study.base_seed)
        except Failed as error:
            raise UserError(f"head {head.told} cannot repeat {baseline}: {error}") from error
        found |= {_key(r.trial): r for r in records}
    missing = [r for r in stored if _key(r.trial) not in found]
    if missing:
        trial = missing[0].trial
        raise UserError(f"head {head.told} trains {trial.label} on {trial.suite.name} at N = "
                        f"{trial.ranks} with other seeds or data than {baseline}; make the "
                        "baseline again")
    pairs: dict[Cell, list[tuple[TrialRecord, TrialRecord]]] = defaultdict(list)
    for record in stored:
        pairs[cell_of(record.trial)].append((record, found[_key(record.trial)]))
    return Judged(f"the study {baseline}", head.told,
                  tuple(_finding(cell, of, factor) for cell, of in pairs.items()),
                  (*_copies(read), *_notes(stored, pairs)))


def _groups(stored: Sequence[TrialRecord]) -> dict[tuple[str, int, bytes], list[TrialRecord]]:
    """Places trials of one suite at one N together; their configurations may differ elsewhere."""
    found: dict[tuple[str, int, bytes], list[TrialRecord]] = defaultdict(list)
    for record in stored:
        suite = record.trial.suite
        found[suite.name, record.trial.ranks, canonical(suite)].append(record)
    return found


def _finding(cell: Cell, pairs: Sequence[tuple[TrialRecord, TrialRecord]],
             factor: float) -> Finding:
    finding = Finding(cell, factor)
    finding.failed = next(filter(None, (failure(head, base) for base, head in pairs)), "")
    if not finding.failed:
        finding.unjudged = counts.uncounted(pairs)
        finding.course, finding.counts = counts.course(pairs), counts.counts(pairs)
    return finding


def _copies(read: trial_files.Trials) -> list[str]:
    return [trial_files.left_out(read.copies)] if read.copies else []


def _notes(stored: Sequence[TrialRecord],
           pairs: dict[Cell, list[tuple[TrialRecord, TrialRecord]]]) -> Iterator[str]:
    cards = {origins.card(record.header.environment) for record in stored}
    other = origins.words(origins.differences(
        [*cards, origins.card(environment.card())], origins.CODE))
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
