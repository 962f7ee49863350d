"""CPU time of commands over a folder of records, beside that of the same with more than is asked.

Tables against the whole page, whose figures are not drawn for them; ``cost`` and ``compare``
against themselves where pandas and scipy.stats are imported first, as they once were. They take
turns. With ``--benchmark-disable`` the tables have to be written, and no figure.
"""

import os
import statistics
import subprocess
import sys

import large_study
import pytest

pytestmark = pytest.mark.slow

ROUNDS = 5
TRIALS = 300

MAIN = "import sys; from bench_apts.cli import main; main()"
HEAVY = f"import pandas, scipy.stats; {MAIN}"


def seconds(code, *arguments):
    """Return the CPU seconds of a command and its children."""
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True,
                          text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    after = os.times()
    return (after.children_user - before.children_user
            + after.children_system - before.children_system)


def in_turns(benchmark, more, less):
    """Return how many times as long ``more`` takes as ``less``."""
    taken = [[], []]

    def run():
        for _ in range(ROUNDS if benchmark.enabled else 1):
            for times, command in zip(taken, (more, less), strict=True):
                times.append(seconds(*command))

    benchmark.pedantic(run, rounds=1, iterations=1)
    long, short = map(statistics.median, taken)
    benchmark.extra_info |= {"CPU seconds": [round(long, 2), round(short, 2)]}
    return long / short


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return large_study.write(tmp_path_factory.mktemp("records") / "study", TRIALS)


def test_tables_beside_the_whole_page(benchmark, records, tmp_path):
    ratio = in_turns(benchmark, (MAIN, "report", records, "--out", tmp_path / "page"),
                     (MAIN, "report", records, "--format", "csv", "--out", tmp_path / "tables"))
    benchmark.group = f"the page: {ratio:.1f} times the tables"
    assert (tmp_path / "page" / "report.html").exists()
    assert [*(tmp_path / "tables").rglob("*.csv")]
    assert not [*(tmp_path / "tables").rglob("*.svg")]
    assert not benchmark.enabled or ratio > 1.5


@pytest.mark.parametrize("arguments", [("cost",), ("compare",)])
def test_commands_beside_themselves_with_pandas_and_scipy_stats(benchmark, records, arguments):
    folders = (records, records) if arguments == ("compare",) else (records,)
    ratio = in_turns(benchmark, (HEAVY, *arguments, *folders), (MAIN, *arguments, *folders))
    benchmark.group = f"{arguments[0]} with pandas and scipy.stats: {ratio:.2f} times without"
    assert not benchmark.enabled or ratio > 1.1
