"""Results folders as large as anybody's: what reading, reporting and appending take."""

import subprocess
import sys
from pathlib import Path

import large_study
import pytest

from bench_apts.core import store
from bench_apts.core.records import Eval, Header
from bench_apts.reports.gather import gather

COUNTERS = Path("/proc/thread-self/io")
BAR_S, BAR_BYTES = 30, 2 * 2**30
"""What a command may take for 10,000 trials; the test allows three times the CPU seconds."""

MEASURED = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
sys.exit(code)
"""
"""Runs a command from a small process: Linux passes the peak memory of whoever starts it on."""


def spent():
    """Bytes that this thread has read and written so far; what others do is no matter of it."""
    counts = dict(line.split(": ") for line in COUNTERS.read_text().splitlines())
    return int(counts["rchar"]), int(counts["wchar"])


@pytest.mark.skipif(not COUNTERS.exists(), reason="the kernel counts no bytes here")
def test_appending_takes_the_same_however_much_is_there(make_trial, tmp_path):
    trial, path = make_trial("sgd"), tmp_path / "trial.jsonl"
    store.append(path, Header(trial.run_id, store.now(), trial, {}))
    taken = []
    for _ in range(300):
        before = spent()
        store.append(path, Eval(1, 64, 0.0, 0.1, 0.1, 0.1, 1, 1, 1, None, {"accuracy": 0.5}, {}))
        after = spent()
        taken.append((after[0] - before[0], after[1] - before[1]))
    # The reading of the counters is in it, whose length varies with their digits.
    reads, writes = zip(*taken, strict=True)
    assert max(reads) - min(reads) < 32
    assert len(set(writes)) == 1
    assert writes[0] < 1_000


def test_a_made_up_study_is_read_as_any_other(tmp_path):
    folder = large_study.write(tmp_path / "large", 480)
    found = gather(folder)
    assert len(found.trials) == len(store.read_trials(folder)) == 480 + 4 * 8  # with twins
    assert found.left_out == {}
    cells = [cell for group in found.groups for cell in group.cells]
    assert len(cells) == 48
    for cell in cells:
        assert len(cell.draws) == (10 if cell.tuning_free else 2)
        assert all(len(record.evals) == 41 for record in cell.draws)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_trials_open_in_time(tmp_path, environment):
    folder = large_study.write(tmp_path / "large", 10_000)
    assert len(list((folder / "trials").iterdir())) >= 10_000
    for arguments in (("report", folder), ("compare", folder, "sgd", "adam"), ("cost", folder)):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "-m", "bench_apts", *map(str, arguments)],
            env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in ((0, 1) if arguments[0] == "compare" else (0,)), done.stderr
        peak_kb, cpu_s = map(float, done.stdout.split())
        assert peak_kb * 1024 < BAR_BYTES, arguments[0]
        assert cpu_s < 3 * BAR_S, arguments[0]
