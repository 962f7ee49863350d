"""How ``check`` grows with the records of a study, and what a report gains from several cores.

Checks of a thousand and of ten thousand trials take turns, each in a process of its own: CPU
seconds, and peak memory beside that of all records at once. A page's figures are drawn one after
the other and over the cores, in turns as well. With ``--benchmark-disable`` all are run once on
few records.
"""

import math
import statistics
import subprocess
import sys
import time

import large_study
import pytest

from bench_apts.core import environment
from bench_apts.reports.gather import gather
from bench_apts.reports.report_page import compose_report
from bench_apts.reports.workers import start_workers

pytestmark = pytest.mark.slow

FEW, MANY = 1_000, 10_000
ROUNDS = 3

EXPONENT = 1.05
"""Highest exponent of CPU time; 1.08 was measured where all records were kept."""

SHARE = 0.3
"""Highest share of the memory of all records that checking them may take."""

FIGURES = 300
"""Trials of the study whose figures are drawn."""

MEASURED = """
import re, sys, time
from pathlib import Path
from bench_apts.core import store
from bench_apts.meters import soundness

def peak():  # of this program; ru_maxrss is at least what its parent had
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

run = {"check": soundness.check, "read": store.read_trials}[sys.argv[1]]
before, began = peak(), time.process_time()
found = run(Path(sys.argv[2]))
print(time.process_time() - began, peak() - before)
assert sys.argv[1] == "read" or found[1] == [], found[1][:3]
"""


def measured(what, folder):
    """Return the CPU seconds, and the growth of peak memory in KiB."""
    done = subprocess.run([sys.executable, "-c", MEASURED, what, str(folder)],
                          capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return tuple(map(float, done.stdout.split()))


@pytest.mark.timeout(1800)
def test_check_grows_like_the_records_and_keeps_few_of_them(benchmark, tmp_path):
    few, many = (FEW, MANY) if benchmark.enabled else (1, FEW)  # each cell has ten at least
    folders = {count: large_study.write(tmp_path / str(count), count) for count in (few, many)}
    counts = {count: len([*(folder / "trials").iterdir()]) for count, folder in folders.items()}
    taken = {count: [] for count in folders}

    def run():
        for _ in range(ROUNDS if benchmark.enabled else 1):
            for count, folder in folders.items():
                taken[count].append(measured("check", folder))

    benchmark.pedantic(run, rounds=1, iterations=1)
    _, whole = measured("read", folders[many])
    seconds = {count: statistics.median(s for s, _ in found) for count, found in taken.items()}
    exponent = (math.log(seconds[many] / seconds[few])
                / math.log(counts[many] / counts[few]))
    share = max(kibibytes for _, kibibytes in taken[many]) / whole
    benchmark.group = (f"check: exponent {exponent:.3f} from {few:,} to {many:,} trials, "
                       f"{share:.2f} of the memory of all records")
    benchmark.extra_info |= {
        "CPU ms a trial": [round(1e3 * seconds[count] / counts[count], 3) for count in counts],
        "growth of memory, MiB": [round(max(k for _, k in taken[count]) / 1024)
                                  for count in counts] + [round(whole / 1024)]}
    assert not benchmark.enabled or exponent < EXPONENT
    assert not benchmark.enabled or share < SHARE


@pytest.mark.skipif(environment.cores() < 2, reason="there is one core")
def test_figures_over_the_cores_beside_one_after_the_other(benchmark, tmp_path):
    gathered = gather(large_study.write(tmp_path / "study", FIGURES))
    taken, drawn = {"over the cores": [], "in turn": []}, {}

    def run():
        for _ in range(ROUNDS if benchmark.enabled else 1):
            for how, times in taken.items():
                figures = compose_report(gathered, None).figures
                began = time.monotonic()
                with start_workers(how == "over the cores") as workers:
                    workers.draw(figures)
                    workers.finish()
                    drawn[how] = [figure.rendered for figure in figures]
                times.append(time.monotonic() - began)

    benchmark.pedantic(run, rounds=1, iterations=1)
    assert drawn["over the cores"] == drawn["in turn"] != []
    over, alone = (statistics.median(times) for times in taken.values())
    benchmark.group = f"figures: {alone / over:.2f} times as fast over {environment.cores()} cores"
    benchmark.extra_info |= {"seconds": {how: round(statistics.median(times), 2)
                                         for how, times in taken.items()}}
    assert not benchmark.enabled or alone > 1.3 * over
