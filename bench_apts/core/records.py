"""The events of a trial, which its file holds as one JSON object a line, and a trial as read back.

``header`` comes first, then ``start``, ``eval`` … and ``end``. A trial that is run again appends a
new ``header``; the last attempt counts. Fields with a default are missing in records older than
the field. See docs/formats.md.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from bench_apts.core.spec import SCHEMA, Trial

Status = Literal["hit", "miss", "diverged", "oom", "error", "timeout", "interrupted", "pruned"]

FINISHED: frozenset[str] = frozenset({"hit", "miss", "diverged", "oom", "timeout", "pruned"})
"""Statuses that are a result. Trials with ``error`` and ``interrupted`` are run again."""

Int64 = Annotated[int, Meta(ge=-2**63, le=2**63 - 1)]
"""A count as read, negative ones too: ``bench-apts check`` says that they cannot be."""

Phase = Literal["setup", "warmup", "train", "validate", "eval", "checkpoint"]
"""``validate`` is what an optimizer sends for its evaluation, ``eval`` what the harness sends."""


class Traffic(Struct, gc=False):
    """Bytes of one kind of collective in one phase.

    ``payload_bytes`` is the logical tensor; ``ideal_bytes`` is what one rank sends at least
    (averaged over the ranks of the group); ``actual_bytes`` is what this rank's gloo sends,
    headers included, None elsewhere (core/wire.py has the formulas). Where the meter could not
    account for a call, ``unmeasured`` says why, and the bytes are those of the other calls only.
    """

    calls: Int64 = 0
    payload_bytes: Int64 = 0
    ideal_bytes: float = 0.0
    actual_bytes: Int64 | None = None
    unmeasured: str | UnsetType = UNSET  # left out of files where all is measured


Communication = dict[str, dict[str, Traffic]]
"""Traffic by phase and collective, for instance ``comm["train"]["all_reduce"]``."""


class DistinctCall(Struct, frozen=True, gc=False):
    """A collective as rank 0 issued it, and how often: equal calls are counted together.

    Attributes:
        phase: As in ``Communication``, like ``collective``.
        ranks: Size of the process group, which need not be the world's.
        operation: c10d's name; None where calls are folded.
        dtype: Of the elements, for instance ``"float32"``; None without tensors or folded.
        root: Rank in the group that it starts or ends at; None where there is none or folded.
        payload_bytes: Of one call, like the two below; of all together where calls are folded.
        folded: How many distinct calls this entry sums up; 0 for a single one.
        unmeasured: Why its bytes are not known, or not all of them; unset where they are.
    """

    phase: str
    collective: str
    ranks: Int64
    operation: str | None
    dtype: str | None
    root: int | None
    payload_bytes: Int64
    ideal_bytes: float
    actual_bytes: Int64 | None
    calls: Int64
    folded: Int64 = 0
    unmeasured: str | UnsetType = UNSET


class AuditPart(Struct, gc=False):
    """Bytes that one rank sent in one part of a trial.

    ``unsure_bytes`` is by how much the prediction may be wrong for known reasons.
    """

    predicted_bytes: Int64 = 0
    seen_bytes: Int64 = 0
    unsure_bytes: Int64 = 0

    @property
    def difference(self) -> int:
        """Bytes that the kernel saw beyond the prediction."""
        return self.seen_bytes - self.predicted_bytes


class Audited(Struct):
    """The kernel's count of bytes against the meter's, of the rank where they differ most.

    ``skipped`` says why there was no audit, and is empty where there was one. ``unread`` names
    files and sockets that the kernel did not show.
    """

    skipped: str = ""
    rank: int = 0
    parts: dict[str, AuditPart] = {}
    unread: list[str] = []


class GpuReadings(Struct):
    """What the sensors of one rank's GPU said while it trained; None where it has no such sensor.

    Attributes:
        readings: How often they were read.
        power_w: Mean power in watts.
        temperature_c: Highest temperature in degrees Celsius.
        clock_mhz: Mean clock of its multiprocessors.
        throttled: Share of the readings in which heat or a limit of power held its clocks down.
        reasons: Why they were.
        memory_bytes: The most memory in use by all processes together, as the driver counts.
    """

    readings: int
    power_w: float | None = None
    temperature_c: float | None = None
    clock_mhz: float | None = None
    throttled: float | None = None
    reasons: list[str] = []
    memory_bytes: Int64 | None = None


class Imported(Struct, frozen=True):
    """Where a record comes from that ``bench-apts import`` made of another program's log.

    Attributes:
        format: The name of the subcommand that read it, for instance ``csv``.
        source: The file that was read, relative to the folder that was named.
        unmeasured: Fields of ``Trial`` and ``Eval`` that the log does not say, sorted; the
            record holds defaults there, not measurements. Without ``samples`` in the
            log, that field counts steps.
    """

    format: str
    source: str
    unmeasured: tuple[str, ...]


class Header(Struct, tag="header", tag_field="event"):
    """The first event of an attempt: what runs, and where.

    ``configuration`` is ``Trial.configuration``, written for readers without this package. With
    ``resumed`` the attempt resumes the checkpoint of that many samples. ``imported`` is unset in
    records of trials that the harness ran itself.
    """

    run_id: Annotated[str, Meta(pattern="^[0-9A-Za-z_-]{1,64}$")]  # it names files
    time: str
    trial: Trial
    environment: dict[str, Any]
    configuration: str = ""
    schema: int = SCHEMA
    resumed: int | None = None
    imported: Imported | UnsetType = UNSET


class Start(Struct, tag="start", tag_field="event"):
    """Written by rank 0 once model and data are ready.

    ``forward_flops`` and ``backward_flops`` are those of one sample, ``numerics`` what
    ``environment.torch_numeric_settings`` returns, ``build_s`` the seconds that the backend's
    ``build`` took and ``build_backwards`` the backward passes in it; ``chance`` is the accuracy of
    always answering the most frequent class of the validation split. ``baseline_memory_bytes`` are
    in use on rank 0's GPU before the optimizer is built, counted as ``Eval.peak_memory_bytes`` is;
    ``bound_cores`` are the cores that rank 0 was bound to, next to its GPU.
    """

    parameters: Int64
    initial_weights_sha256: str | None
    data_order_sha256: str
    train_samples: Int64
    validation_samples: Int64
    comm_meter: str
    process_group: str
    forward_flops: float | None = None
    backward_flops: float | None = None
    numerics: dict[str, bool | str] = {}
    build_s: float | None = None
    build_backwards: Int64 | None = None
    chance: float | None = None
    baseline_memory_bytes: Int64 | None = None
    bound_cores: str | UnsetType = UNSET


class Counted(Struct, gc=False):
    """What the harness counted itself, independently of the stepper's reports; cumulative.

    Attributes:
        samples: Of all ranks: the larger of what was handed out and what passed through the model.
        forwards: Passes of the model, the maximum over ranks.
        backwards: Likewise.
        steps_s: Seconds of rank 0 from the first step after each evaluation to the next one,
            without waits for data, by a second clock.
    """

    samples: Int64
    forwards: Int64
    backwards: Int64
    steps_s: float


class Eval(Struct, tag="eval", tag_field="event", gc=False):
    """One evaluation. All counters are cumulative since the first training step.

    ``samples`` and ``flops`` count all ranks together; ``forwards``, ``backwards``, ``cpu_s`` and
    ``peak_memory_bytes`` are the maximum over ranks; ``comm`` is rank 0's. ``all_ranks_cpu_s`` are
    the CPU seconds of all ranks together in training; ``tensor_bytes`` is the most that the
    tensors of model and optimizer held at evaluations 1, 2, 4, 8 …, the maximum over ranks;
    ``energy_j`` the joules that all ranks' GPUs took in training, None where they are unknown.
    """

    step: Int64
    samples: Int64
    epoch: float
    train_s: float
    wall_s: float
    cpu_s: float
    forwards: Int64
    backwards: Int64
    peak_memory_bytes: Int64
    train_loss: float | None
    validation: dict[str, float]
    comm: Communication
    diagnostics: dict[str, float] = {}
    flops: float | None = None
    counted: Counted | None = None
    all_ranks_cpu_s: float | None = None
    tensor_bytes: Int64 | None = None
    energy_j: float | None = None


class Checkpoint(Struct, tag="checkpoint", tag_field="event"):
    """A checkpoint from which the trial can be resumed, or why there is none (``skipped``).

    ``sha256`` is that of ``checkpoint.json`` in ``folder``, which lies in the study's folder.
    """

    step: int
    samples: int
    folder: str = ""
    sha256: str = ""
    skipped: str = ""


class End(Struct, tag="end", tag_field="event"):
    """The last event: how it ended, what it spent, and (report stage only) the test metrics.

    ``calls`` is what ``comm`` sums up; None where the ranks ended before they could write it.
    ``gpus`` are the sensors of each rank's GPU, None for one without.
    """

    status: Status
    time: str
    wall_s: float
    ledger: dict[str, float] = {}
    cpu_s: float = 0.0
    peak_memory_bytes: Int64 = 0
    samples: Int64 = 0
    comm: Communication = {}
    test: dict[str, float] | None = None
    final_weights_sha256: str | None = None
    reason: str | None = None
    traceback: str | None = None
    audit: Audited | None = None
    calls: list[DistinctCall] | None = None
    gpus: list[GpuReadings | None] | UnsetType = UNSET


Event = Header | Start | Eval | Checkpoint | End


class TrialRecord(Struct):
    """One trial as read back: its last attempt, with what came before it if it was resumed.

    ``end`` is None while it runs, or if it was killed. ``torn`` are the numbers of lines that a
    killed writer cut off, ``resumed`` the samples at which it was resumed.
    """

    header: Header
    start: Start | None
    evals: list[Eval]
    end: End | None
    path: str
    attempts: int = 1
    torn: list[int] = []
    checkpoints: list[Checkpoint] = []
    resumed: list[int] = []

    @property
    def trial(self) -> Trial:
        """The trial's specification."""
        return self.header.trial

    @property
    def finished(self) -> bool:
        """Whether the trial has a result, so that it need not run again."""
        return self.end is not None and self.end.status in FINISHED

    def measures(self, field: str) -> bool:
        """Whether a field of ``Trial`` or ``Eval`` is known; of imported logs some are not."""
        return not self.header.imported or field not in self.header.imported.unmeasured

    @property
    def uncounted(self) -> str:
        """Why the trial's bytes are not known, or not all of them; empty where they are."""
        if self.header.imported:
            return f"imported by `bench-apts import {self.header.imported.format}`"
        if self.start is not None and self.start.comm_meter.startswith("none"):
            return self.start.comm_meter
        for event in (self.end, *self.evals[-1:]):
            reasons = {traffic.unmeasured for collectives in (event.comm if event else {}).values()
                       for traffic in collectives.values() if traffic.unmeasured}
            if reasons:
                return "; ".join(sorted(map(str, reasons)))
        return ""


def train_bytes(comm: Communication) -> float:
    """Return the ideal wire bytes that one rank sent in steps, over all collectives.

    NaN, which says *unknown*, if a call of them could not be accounted for.
    """
    return _ideal_bytes(comm, "train")


def method_bytes(comm: Communication) -> float:
    """Return the ideal wire bytes that one rank sent for the method: in steps and evaluations.

    What the harness itself sends for evaluations is excluded. NaN as in ``train_bytes``.
    """
    return _ideal_bytes(comm, "train") + _ideal_bytes(comm, "validate")


def _ideal_bytes(comm: Communication, phase: str) -> float:
    return sum(math.nan if traffic.unmeasured else traffic.ideal_bytes
               for traffic in comm.get(phase, {}).values())
