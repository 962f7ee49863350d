"""Writes results folders whose costs are whole seconds, for numbers worked out by hand."""

from __future__ import annotations

import msgspec
import pandas as pd
import report_fixture as fixture

from bench_apts.core import store
from bench_apts.core.files import write_json
from bench_apts.core.records import Eval, Traffic
from bench_apts.core.spec import Entry, Evaluation, Study
from bench_apts.reports import caveats
from bench_apts.reports.figure_style import looks
from bench_apts.reports.gather import gather
from bench_apts.reports.section_parts import Context
from bench_apts.reports.tuning_bill import study_bill

SUITE = msgspec.structs.replace(fixture.SUITE, evaluation=Evaluation(1_400, 1))
HIT, MISS = 0.95, 0.5

# Seconds at which each tuning trial hits, or the negative of what it spent in vain: the pool that
# docs/statistics.md works out.
POOL = (2, 3, -5, -10)
FREE = (4, 4)


class Folder:
    """A results folder of trials that are evaluated each second and hit, or end, on one."""

    def __init__(self, path, labels=("adam", "apts"), ranks=(1,), **changes):
        self.path, self.ranks = path, ranks
        path.mkdir()
        self.study = msgspec.structs.replace(
            Study((SUITE,), tuple(Entry(label, label) for label in labels), ranks, 4, 2, 0, "cpu"),
            **changes)
        write_json(path / "study.json", store.StudyFile(
            self.study, ["bench-apts", "run"], "2026-01-02T03:00:00+00:00", fixture.ENVIRONMENT))

    def add(self, label, stage, seconds, ranks=1, like=None, status=None, values=None, flops=1e6,
            pace=1.0, sent=None, test=None, first=0, **changes):
        """Writes one trial for each of ``seconds``; ``like`` is the draw that it repeats.

        A second of training takes ``pace`` seconds, and ``sent`` bytes where they are given. The
        first one has the number ``first``.
        """
        for number, length in enumerate(seconds, first):
            tried = number if like is None else like
            spec = fixture.trial(label, ranks, stage, number, **{
                "suite": self.study.suites[0], "device": self.study.device, "hyperparameters": (
                    {"radius": 0.1} if label == "apts" else {"lr": 0.01 * 2.0**tried}), **changes})
            accuracies = values or [MISS] * abs(length) + [HIT if length > 0 else MISS]
            evals = [Eval(
                step=second, samples=1_400 * second, epoch=0.0, train_s=pace * second,
                wall_s=2.0 * second, cpu_s=float(second), forwards=second, backwards=3 * second,
                peak_memory_bytes=1, train_loss=1.0, comm={} if sent is None else {
                    "train": {"all_reduce": Traffic(second, int(sent * second), sent * second)}},
                validation={"accuracy": accuracy, "loss": 1 - accuracy},
                flops=None if flops is None else flops * second)
                for second, accuracy in enumerate(accuracies)]
            fixture.write(self.path, spec, evals,
                          status or ("hit" if accuracies[-1] == HIT else "miss"), test=test)
        return self

    def bill(self, *arguments, **options):
        return study_bill(gather(self.path), *(arguments or ["core_seconds"]),
                    **{"replay": False, **options})

    def contexts(self):
        """What the report's sections are built from."""
        gathered = gather(self.path)
        look = looks([entry.label for entry in self.study.entries])
        crowded = {n: caveats.crowded(gathered, n) for n in self.ranks}
        return [Context(gathered, suite, suite.name, tuple(
            group for group in gathered.groups if group.suite == suite), look, crowded,
            pd.DataFrame()) for suite in self.study.suites]
