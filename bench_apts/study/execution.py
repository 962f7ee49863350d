"""How a command runs the trials of a study; nothing of it is part of what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, structs

from bench_apts.core.job import GRACE_S
from bench_apts.study.splitting.jobs import ALONE, Jobs
from bench_apts.study.splitting.shards import WHOLE, Shard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench_apts.core.records import TrialRecord


class Execution(Struct, frozen=True):
    """How a command runs the trials of a study.

    Attributes:
        shared: Whether other commands work on the same study; each trial is run by one of them,
            and all return when all trials have their answers.
        reports: Whether the frozen configurations are to be reported, after tuning.
        shard: The part of the study that is to be run.
        jobs: How many trials run side by side; for more than one, ``shared`` must be set.
        checkpoint_every: Samples between two checkpoints of a trial; None for those alone that
            SIGTERM asks for.
        grace_s: How long SIGTERM leaves a trial to write one, in seconds.
    """

    shared: bool = False
    reports: bool = True
    shard: Shard = WHOLE
    jobs: Jobs = ALONE
    checkpoint_every: int | None = None
    grace_s: float = GRACE_S

    def beginning(self, known: Iterable[TrialRecord]) -> Execution:
        """Returns the same with what had ended when the first of several commands began."""
        ended = {record.header.run_id: record.attempts for record in known if record.end}
        return structs.replace(self, jobs=structs.replace(self.jobs, ended=ended))


WHOLLY = Execution()
