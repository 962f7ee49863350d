"""Set-up of a ZeRO trial whose rank imports what it builds with, beside one forked after that.

The server of ranks is told of no package: the first trial imports them in its rank, where the
launcher finds them; those that follow are forked from a server that has them.
"""

import statistics
from pathlib import Path

import msgspec
import pytest
from test_bench_harness import make_job

from bench_apts.core.records import End, Event, Start
from bench_apts.launch.elastic import Launcher

TRIALS = 5
"""Trials after the first one."""

LEAST = 2.0
"""How many times as long the first set-up takes at least; 4.2 s by 0.26 s once were measured."""


def set_up(launcher, job):
    """Return the seconds of a trial's set-up, and those in which its optimizer was built."""
    Path(job.events).unlink(missing_ok=True)
    outcome = launcher.run(job, 250)
    assert outcome.status in ("hit", "miss"), outcome
    events = [msgspec.json.decode(line, type=Event)
              for line in Path(job.events).read_bytes().splitlines()]
    [begun] = [event for event in events if isinstance(event, Start)]
    [end] = [event for event in events if isinstance(event, End)]
    return end.ledger["setup_s"], begun.build_s


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_set_up_of_zero_with_imports_beside_set_up_without(benchmark, tmp_path):
    pytest.importorskip("deepspeed")
    job = make_job(tmp_path, "digits", "cpu", 1, "zero1", 2, 1)
    found = []

    def run():
        with Launcher([], "cpu") as launcher:
            found.extend(set_up(launcher, job) for _ in range(1 + TRIALS))

    benchmark.pedantic(run, rounds=1, iterations=1)
    (first, _), later = found[0], statistics.median(whole for whole, _ in found[1:])
    assert all(0 < build < whole for whole, build in found)
    benchmark.group = f"set-up of zero1: {first / later:.1f} times as long with its imports"
    benchmark.extra_info |= {"with, s": round(first, 2), "without, s": round(later, 2)}
    assert not benchmark.enabled or first > LEAST * later
