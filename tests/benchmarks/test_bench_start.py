"""From command to first step: the server's cold start once a study, a trial's warm start.

With ``--benchmark-disable`` a first step has to be reached, and nothing is measured.
"""

import contextlib
import statistics
import time

import pytest

from bench_apts.core.configuration import parse_selector
from bench_apts.core.job import RankJob
from bench_apts.core.spec import Study
from bench_apts.launch.elastic import Launcher
from bench_apts.study.plan import Plan

WARM = 7
"""Trials after the first; the median of their starts counts."""

BAR_S = 1.5
"""Longest warm start at 8 ranks on 2 cores."""

FIRST_STEP = "self.steps > 1 or rank or open({path!r}, 'w').write(str(time.monotonic()))"


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("ranks", [
    1, 2, *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in (4, 8))])
def test_start(benchmark, plugin, make_study, digits, tmp_path, ranks):
    mark = tmp_path / "first_step"
    path = plugin(on_step=FIRST_STEP.format(path=str(mark)))
    suite = make_study("sgd").suites[0]
    study = Study(suites=(suite,), entries=(parse_selector(str(path)),), ranks=(ranks,), trials=0,
                  seeds=1 + (WARM if benchmark.enabled else 1), base_seed=0, device="cpu",
                  twins=False)
    trials = Plan(study, {"digits": digits}).reporting([])
    starts = []

    def run():
        began = time.monotonic()
        with Launcher([], "cpu") as launcher:
            for trial in trials:
                outcome = launcher.run(RankJob(trial, str(digits.folder),
                                           str(tmp_path / trial.run_id)), 250)
                assert outcome.status in ("hit", "miss"), outcome
                starts.append(float(mark.read_text()) - began)
                with contextlib.suppress(FileNotFoundError):
                    mark.unlink()
                began = time.monotonic()

    benchmark.pedantic(run, rounds=1, iterations=1)
    assert len(starts) == len(trials)
    assert min(starts) > 0
    if not benchmark.enabled:
        return
    cold, warm = starts[0], statistics.median(starts[1:])
    benchmark.group = f"start at N = {ranks}: warm {warm:.2f} s"
    benchmark.extra_info |= {"cold start of the server, s": round(cold, 2),
                             "warm start, s": round(warm, 3),
                             "longest warm start, s": round(max(starts[1:]), 3)}
    assert ranks < 8 or warm < 2 * BAR_S  # beyond doubt, on a busy machine too
