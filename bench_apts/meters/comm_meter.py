"""The meter for any training script: what its collectives send, by phase, group and step.

    from bench_apts import CommMeter

    with CommMeter() as meter:
        for batch in batches:
            train(batch)
            meter.step()
        print(meter.table())

It uses what the harness's own trials are measured with (``comm``, ``kernel_bytes``), and imports
nothing else of bench-apts. docs/meter.md describes it.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.errors import describe_error
from bench_apts.core.records import Audited, AuditPart
from bench_apts.core.wire import traffic_complaints
from bench_apts.meters import calls as distinct
from bench_apts.meters.collective_times import CollectiveTimes
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.meters.traffic_table import TrafficRow, TrafficTable, group_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench_apts.meters.kernel_bytes import KernelBytes

_PART = "run"
"""The one part of the audit."""


class StepTraffic(NamedTuple):
    """What this rank did in one step.

    Attributes:
        step: Its number, from 1.
        seconds: Wall-clock seconds since the step before, or since the meter began.
        calls: Collectives that it issued.
        payload_bytes: Bytes of their tensors.
        ideal_bytes: What a rank has to send for them on any network.
        actual_bytes: What gloo sent; None where that is not known.
    """

    step: int
    seconds: float
    calls: int
    payload_bytes: int
    ideal_bytes: float
    actual_bytes: int | None


class CommMeter:
    """Counts every collective of this process while its block runs.

    Process groups may be made before the block or in it. Phases are detected:
    ``setup`` is what comes before the first collective of a backward pass or the first step of a
    torch optimizer, ``backward`` what a backward pass issues, ``optimizer`` what ``step`` of such
    an optimizer issues, and ``other`` the rest, for instance the forward pass and evaluation.
    ``during`` and ``phase`` name others.

    Args:
        time: Whether to time collectives, which may make a synchronous one wait a little longer.
        automatic_steps: Whether each step of a torch optimizer counts as a step; else ``step``
            is to be called. Of several optimizers the one that stepped most counts.
        on_step: Is called after each step with its ``StepTraffic``.
    """

    def __init__(self, *, time: bool = False, automatic_steps: bool = False,
                 on_step: Callable[[StepTraffic], object] | None = None) -> None:
        self.phase: str | None = None
        """The name of what is done now; None tells phases apart as described."""
        self.steps = 0
        """Steps so far."""
        self._times = CollectiveTimes() if time else None
        self._counter = CollectiveCounter(
            self._current_phase, self._times.begin if self._times else None)
        self._automatic, self._on_step = automatic_steps, on_step
        self._in_optimizer = self._trained = False
        self._unaudited = True
        self._backward_pass: Callable[[], int] = lambda: -1
        self._by_optimizer: dict[int, int] = {}
        self._handles: list[Any] = []
        self._began = self._last = self._first_step = 0.0
        self._before = (0, 0, 0.0, 0)
        self._kernel: KernelBytes | None = None
        self._audited = Audited("no collective was issued")
        self._place = 0, 1

    def __enter__(self) -> CommMeter:
        """Begin to count.

        Raises:
            RuntimeError: It counts, or did so already.
            UserError: ``BENCH_APTS_COMM_METER`` asks for what does not exist.
        """
        import torch
        from torch.optim import optimizer

        if self._began:
            raise RuntimeError("a CommMeter measures one block; make another one")
        self._handles = [optimizer.register_optimizer_step_pre_hook(self._before_optimizer),
                         optimizer.register_optimizer_step_post_hook(self._after_optimizer)]
        self._backward_pass = torch._C._current_graph_task_id
        self._began = self._last = time.perf_counter()
        self._counter.install()
        self._counter.watch_existing()
        return self

    def __exit__(self, *error: object) -> None:
        """End the counting; ``table`` goes on to show what was counted."""
        if any(error) and not self._audited.skipped:  # something may be under way
            self._audited.skipped = "the block ended in an error"
        self.audit()
        self._audited.skipped = self._audited.skipped or self._counter.unmeasured()
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        self.detach()

    def detach(self) -> None:
        """Take all hooks away and read nothing more, as in a process that was forked from here.

        A hook that is still there when the interpreter ends would crash it.
        """
        for handle in self._handles:
            handle.remove()
        self._counter.uninstall()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Call what is issued in this block by the name of a phase of one's own."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def step(self) -> None:
        """Count a step, which ends here."""
        now = time.perf_counter()
        self.steps += 1
        if self.steps == 1:
            self._first_step = now
        if self._on_step:
            self._on_step(self._traffic_since(now))
        self._last = now

    def table(self) -> TrafficTable:
        """Return what was counted so far on this rank; ``print`` shows it.

        With ``time`` it waits for collectives that run on a device.
        """
        return TrafficTable(self.rows(), self.steps, self.step_seconds, notes=self._notes())

    def rows(self, wait: bool = True) -> tuple[TrafficRow, ...]:
        """Return the traffic so far by phase, collective and group.

        Args:
            wait: Whether to wait for collectives that run on a device, to have all their seconds.
        """
        groups = self._counter.calls_by_group()
        world = max((seen.ranks for seen, _ in groups), default=1)
        times = self._times.sums(wait) if self._times else {}
        rows = []
        for seen, calls in groups:
            for phase, collectives in distinct.sum_calls(calls).items():
                for collective, traffic in collectives.items():
                    timed = times.get((id(seen), phase, collective))
                    rows.append(TrafficRow(
                        phase, collective, group_label(seen.members, seen.ranks, world),
                        seen.ranks, traffic.calls, traffic.payload_bytes, traffic.ideal_bytes,
                        traffic.actual_bytes, timed.seconds if timed else None,
                        traffic.calls - (timed.calls if timed else 0) if self._times else 0,
                        traffic.unmeasured or None))
        return TrafficTable.summed(rows)

    @property
    def step_seconds(self) -> float | None:
        """Mean seconds from one step to the next; None before the second."""
        if self.steps < 2:
            return None
        return (self._last - self._first_step) / (self.steps - 1)

    @property
    def place(self) -> tuple[int, int]:
        """This process's rank and the world size, as they last were; (0, 1) before that."""
        import torch.distributed as dist

        if dist.is_initialized():
            self._place = dist.get_rank(), dist.get_world_size()
        return self._place

    @property
    def mechanism(self) -> str:
        """How collectives are counted, or ``none (reason)``."""
        return self._counter.name

    def audit(self) -> Audited:
        """Compare the bytes that the kernel saw so far with the counted ones.

        No collective may be under way. ``skipped`` says why they cannot be compared, for instance
        because the backend is not gloo. What the process sends by other sockets is seen as well.
        """
        if self._kernel is not None:
            try:
                found = self._kernel.since_last()
            except Exception as error:  # the training goes on
                self._audited.skipped = describe_error(error)
                self._kernel = None
            else:
                part = self._audited.parts[_PART]
                part.seen_bytes += found.seen_bytes
                part.predicted_bytes += found.predicted_bytes
                part.unsure_bytes = found.unsure_bytes
                self._audited.rank = self.place[0]
        return self._audited

    def _notes(self) -> tuple[str, ...]:
        found = self.audit()
        notes = [] if self._counter.counting else [
            f"collectives are not counted: {self.mechanism}"]
        if found.skipped:
            return (*notes, f"not audited: {found.skipped}")
        part = found.parts[_PART]
        notes.append(f"the kernel saw {part.seen_bytes:,} bytes on this rank's sockets, its "
                     f"collectives account for {part.predicted_bytes:,}")
        return (*notes, *(f"{text} (or by a socket of the script's own)"
                          for text in traffic_complaints(found)))

    def _current_phase(self) -> str:
        if self._unaudited:
            self._unaudited = False
            self._begin_audit()
        if self.phase is not None:
            return self.phase
        if self._backward_pass() != -1:
            self._trained = True
            return "backward"
        if self._in_optimizer:
            return "optimizer"
        return "other" if self._trained else "setup"

    def _begin_audit(self) -> None:
        """Begin before the first collective: now the store is known, and nothing was sent."""
        from bench_apts.meters import kernel_bytes

        try:
            self._audited = Audited(kernel_bytes.obstacle(self._counter), 0, {_PART: AuditPart()})
            if not self._audited.skipped:
                self._kernel = kernel_bytes.KernelBytes(self._counter, self._guarded)
        except Exception as error:  # the training goes on
            self._audited = Audited(describe_error(error))

    def _guarded(self, read: Callable[[], object]) -> None:
        try:
            if self._kernel is not None:
                read()
        except Exception as error:
            self._audited.skipped, self._kernel = describe_error(error), None

    def _before_optimizer(self, optimizer: Any, *_: Any) -> None:
        self._in_optimizer = self._trained = True

    def _after_optimizer(self, optimizer: Any, *_: Any) -> None:
        self._in_optimizer = False
        if self._automatic:
            number = self._by_optimizer[id(optimizer)] = (
                self._by_optimizer.get(id(optimizer), 0) + 1)
            if number > self.steps:
                self.step()

    def _traffic_since(self, now: float) -> StepTraffic:
        sums = [traffic for collectives in self._counter.snapshot().values()
                for traffic in collectives.values()]
        known = all(traffic.actual_bytes is not None for traffic in sums)
        after = (sum(t.calls for t in sums), sum(t.payload_bytes for t in sums),
                 sum(t.ideal_bytes for t in sums), sum(t.actual_bytes or 0 for t in sums))
        calls, payload, ideal, actual = (
            new - old for new, old in zip(after, self._before, strict=True))
        self._before = after
        return StepTraffic(self.steps, now - self._last, int(calls), int(payload), ideal,
                           int(actual) if known else None)
