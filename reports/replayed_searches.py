"""What other tuning policies would have cost, replayed over a suite's recorded trials.

A process beside a report's own that replays tuning policies while the report is drawn.

``python -m bench_apts.reports.replayed_searches`` reads jobs from standard input, plays them,
writes what they found to standard output, and ends early when its input is closed.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, TYPE_CHECKING, BinaryIO, NamedTuple, Self

import msgspec

from bench_apts.core import store, units
from bench_apts.core.currencies import CURRENCIES
from bench_apts.core.errors import UserError
from bench_apts.reports.table import Table, Value, hits_of_trials, number, words
from bench_apts.reports.tuning_pools import opening_entries
from bench_apts.stats.learning_curves import Curve, Direction, curve
from bench_apts.stats.tuning_replay import Replayed, listed, replay, replay_all, sequential

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.cells import ReportCell
    from bench_apts.reports.tuning_pools import CostView, Pool

_SIZE = 8
"""Bytes of the number that says how long a message is."""


class ReplayJob(msgspec.Struct):
    """All policies that draw from one optimizer's trials; see ``replay_all``.

    Attributes:
        curves: The trials.
        direction: Of the target's metric.
        races: Numbers of trials that race.
        limit: How many trials arrive in an order.
    """

    curves: list[Curve]
    direction: Direction
    races: tuple[int, ...]
    limit: int

    def play(self) -> dict[str, Replayed]:
        """Returns what each policy costs; the same wherever it is played."""
        return replay_all(self.curves, self.direction, races=self.races, limit=self.limit)


class ReplayProcess:
    """Plays jobs in a process of its own, which ends with this one at the latest.

    Args:
        jobs: What to play; without any there is no process.

    Raises:
        UserError: No process can be started.
    """

    def __init__(self, jobs: Sequence[ReplayJob]) -> None:
        self._found: list[dict[str, Replayed]] = []
        self._process: subprocess.Popen[bytes] | None = None
        if not jobs:
            return
        with contextlib.ExitStack() as stack:
            self._errors = stack.enter_context(
                tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            try:
                # Only the report's own end ends it: Ctrl-C is for the report to answer. -P: a
                # file in the working folder must not stand in for a module of that name.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=self._errors, process_group=0)
            except OSError as error:
                raise _failed(f"cannot be started: {error.strerror}") from error
            stack.callback(_end, self._process)
            with contextlib.suppress(BrokenPipeError):  # its exit code will tell
                _send(_stream(self._process.stdin), msgspec.msgpack.encode(jobs))
            self._held = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is not None:
            self._process = None
            self._held.close()

    def found(self) -> list[dict[str, Replayed]]:
        """Returns what each job found, in their order; waits for it the first time.

        Raises:
            UserError: The process ended without an answer.
        """
        if self._process is not None:
            answer = _stream(self._process.stdout).read()
            code = self._process.wait()
            if code:
                self._errors.seek(0)
                said = self._errors.read().strip().splitlines() or ["it said nothing"]
                raise _failed(f"ended with {_ending(code)}: {said[-1]}")
            self._found = msgspec.msgpack.decode(answer, type=list[dict[str, Replayed]])
            self.close()
        return self._found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError), process:  # closes its pipes and waits for it
        pass


def _failed(how: str) -> UserError:
    return UserError(f"the process that replays tuning policies {how}; free some memory and run "
                     "the command again")


def _ending(code: int) -> str:
    return f"code {code}" if code > 0 else signal.Signals(-code).name


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(_SIZE))
    pipe.write(message)
    pipe.flush()


def main(given: BinaryIO, answer: BinaryIO) -> None:
    """Plays the jobs that stand in ``given``, and writes to ``answer`` what they found."""
    size = int.from_bytes(given.read(_SIZE))
    jobs = msgspec.msgpack.decode(given.read(size), type=list[ReplayJob])
    threading.Thread(target=_watch, args=(given.fileno(),), daemon=True).start()
    answer.write(msgspec.msgpack.encode([job.play() for job in jobs]))


def _watch(given: int) -> None:
    """Ends this process with the one that started it, which holds the pipe open until then."""
    os.read(given, 1)  # of the descriptor: a stream's lock would be missed when Python ends
    os._exit(1)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)


ARRIVALS = 40
"""Trials that arrive in an order at most, so that a replay of a large study ends."""

_CLOCKS = {"samples", *(currency for currency, row in CURRENCIES.items() if row.is_clock)}
"""In which trials of one optimizer at one N run side by side; a sample takes them equally long."""

_RACES = (2, 4)
_CUT = ("pruned", "interrupted")
_TITLES = {"median": "median pruning", "asha": "ASHA", "hyperband": "Hyperband"}


class ReplayedPolicy(NamedTuple):
    """One policy, replayed over the trials of one N.

    Attributes:
        suite: Name of the training problem.
        ranks: World size N.
        cell: Whose trials; None for a policy that tries one configuration of each optimizer.
        policy: Its name.
        entrants: How many configurations it may try.
        found: What it cost.
    """

    suite: str
    ranks: int
    cell: ReportCell | None
    policy: str
    entrants: int
    found: Replayed

    @property
    def title(self) -> str:
        """The policy as its authors write it."""
        return _TITLES.get(self.policy, self.policy)


class Replays:
    """Replays all policies over a study's trials, in a process beside this one.

    Args:
        pools: Trials of all optimizers at all N, of any number of suites.
        view: Currency, level and device; trials race only in a currency that is a clock.

    Raises:
        UserError: The process cannot be started.
    """

    def __init__(self, pools: Iterable[Pool], view: CostView) -> None:
        drawn = [pool for pool in pools if pool.cell.tune and not pool.cell.leader
                 and not tries_a_list(pool.cell) and not _not_replayable(pool)]
        self._view, self._places = view, {pool: place for place, pool in enumerate(drawn)}
        self._player = ReplayProcess([_job(pool, view) for pool in drawn])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._player.close()

    def of(self, pools: Sequence[Pool]) -> tuple[list[ReplayedPolicy], list[str]]:
        """Returns what policies would have cost on one suite; waits for it the first time.

        Args:
            pools: Those among this object's that are of the suite.

        Returns:
            The policies, N by N, and notes on what could not be replayed.

        Raises:
            UserError: The process ended without an answer.
        """
        found = self._player.found()
        return _replayed(pools, self._view,
                         lambda pool: found[self._places[pool]])


def _job(pool: Pool, view: CostView) -> ReplayJob:
    cell = pool.cell
    return ReplayJob([_curve(record, view) for record in cell.tune],
               cell.suite.target.direction, _RACES if view.currency in _CLOCKS else (),
               min(ARRIVALS, len(cell.tune)))


def _curve(record: TrialRecord, view: CostView) -> Curve:
    try:
        return curve(record, view.currency, view.level)
    except ValueError as error:  # what was not counted is not replayed at all
        raise store.broken(f"{record.path}: {error}") from error


def _replayed(
    pools: Sequence[Pool], view: CostView, drawn: Callable[[Pool], dict[str, Replayed]]
) -> tuple[list[ReplayedPolicy], list[str]]:
    found: list[ReplayedPolicy] = []
    notes: list[str] = []
    for ranks in sorted({pool.cell.ranks for pool in pools}):
        here = [pool for pool in pools if pool.cell.ranks == ranks]
        tuned = [pool for pool in here if pool.cell.tune]
        for pool in tuned:
            # A search that served several optimizers is replayed once.
            why = "" if pool.cell.leader else _not_replayable(pool)
            if why:
                notes.append(f"not replayed: {_where(pool.cell)}, {why}")
            elif not pool.cell.leader:
                found += _own(pool, view, drawn)
        if tuned and len(here) > 1:
            found += _defaults([pool.cell for pool in here], view, notes)
    return found, notes


def tries_a_list(cell: ReportCell) -> bool:
    """Says whether an optimizer's trials were taken from a list, in order, and not drawn.

    Such trials have no range that was searched. (The same holds where only options were
    searched; those trials, too, have an order.)
    """
    return len(cell.tune) > 1 and all(
        record.trial.searched is not None and not record.trial.searched.ranges
        for record in cell.tune)


def replay_table(found: Sequence[ReplayedPolicy], view: CostView) -> Table | None:
    """The policies with their costs; None without any."""
    if not found:
        return None
    limited = any(played.entrants > ARRIVALS for played in found)
    return Table(
        "bill-replay", "Tuning policies, replayed",
        "Replay: each policy tunes until the first hit, in 500 random orders of the same trials"
        f"{f', of which {ARRIVALS} arrive' if limited else ''}; a list in its own order. Cost: "
        "all that was spent for each order that hit. Falsely pruned: share of the pruned trials "
        "that would have hit. Hyperparameters that depend on the budget are not adapted. "
        "Defaults: the configuration of each optimizer without tuning and the first one tried of "
        "each other, in random order.",
        (("Optimizer", ""), ("N", ""), ("Policy", ""), ("Orders that hit", ""), ("Cost", "mean"),
         ("90 %", ""), ("Pruned", "of an order"), ("Falsely pruned", "")),
        tuple(_row(played, view) for played in found))


def _not_replayable(pool: Pool) -> str:
    """Says why an optimizer's trials cannot be replayed, "" if they can."""
    cut = [record for record in pool.cell.tune if not _whole(record)]
    if cut:
        return f"of which {units.plural(len(cut), 'trial')} did not run to the end"
    return "" if pool.ert.hits else f"as {hits_of_trials(0, pool.ert.trials)}"


def _own(pool: Pool, view: CostView,
         drawn: Callable[[Pool], dict[str, Replayed]]) -> list[ReplayedPolicy]:
    """Policies over one optimizer's own trials."""
    cell = pool.cell
    if tries_a_list(cell):
        tried = _listed(cell)
        curves = {str(index): [_curve(record, view) for record in records]
                  for index, records in enumerate(tried)}
        return [ReplayedPolicy(cell.suite.name, cell.ranks, cell, f"ordered list of {len(tried)}",
                       len(tried), replay(sequential, listed(curves, ordered=True)))]
    return [ReplayedPolicy(cell.suite.name, cell.ranks, cell, policy, len(cell.tune), result)
            for policy, result in drawn(pool).items()]


def _listed(cell: ReportCell) -> list[list[TrialRecord]]:
    """Trials of each configuration of a list, in its order; the frozen one's seeds as well."""
    every = [*cell.tune, *filter(_whole, cell.seeds)]
    return [_alike(record, every) for record in cell.tune]


def _defaults(
    cells: Sequence[ReportCell], view: CostView, notes: list[str]
) -> list[ReplayedPolicy]:
    """One configuration of each optimizer, in random order."""
    curves = {}
    for cell in cells:
        # Of a shared search only its check was its own.
        own = [*(cell.checks if cell.leader else cell.tune), *cell.seeds]
        trials = list(filter(_whole, _alike(own[0], own)))
        if not trials:
            notes.append(f"not among the defaults: {_where(cell)}, whose first configuration did "
                         "not run to the end")
            continue
        curves[cell.label] = [_curve(record, view) for record in trials]
    if len(curves) < 2:
        return []
    return [ReplayedPolicy(cells[0].suite.name, cells[0].ranks, None,
                   f"defaults of {len(curves)} optimizers", len(curves),
                   replay(sequential, listed(curves, ordered=False)))]


def _alike(like: TrialRecord, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    values = like.trial.hyperparameters
    return [record for record in records if record.trial.hyperparameters == values]


def _whole(record: TrialRecord) -> bool:
    return record.end is not None and record.end.status not in _CUT


def _where(cell: ReportCell) -> str:
    return f"{cell.label} on {cell.suite.name} at N = {cell.ranks}"


def _row(played: ReplayedPolicy, view: CostView) -> tuple[Value, ...]:
    cell, found = played.cell, played.found
    tail = found.quantiles[0.9]
    falsely = None if math.isnan(found.falsely_pruned) else found.falsely_pruned
    head = opening_entries(cell, view) if cell else (
        Value("all", kind="name", numbers={"optimizer": "", "suite": played.suite}),
        number(str(played.ranks), ranks=played.ranks, level=view.level, currency=view.currency))
    return (
        *head,
        words(played.title, policy=played.policy, configurations=played.entrants),
        number(units.format_percent(found.hit_rate), orders=found.orders, hit_rate=found.hit_rate),
        view.entry("cost", found.cost, found.bill),
        view.entry("cost_q90", tail, 0.0),
        number(f"{found.pruned:.2f}", pruned=found.pruned),
        number(units.NONE if falsely is None else units.format_percent(falsely),
               falsely_pruned=falsely))
