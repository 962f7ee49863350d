"""The report of a study of common size: how heavy its page is, and what it takes to build."""

import os
import re
import subprocess
import sys

import large_study
import pytest

from bench_apts.reports.curve_data import SINGLE
from bench_apts.reports.table import MOST_ROWS

OPTIMIZERS, EACH = 5, 200

MOST_BYTES = 1_500_000

BAR_S, SLACK = 15, 2
"""CPU seconds on an idle machine, and how many times that a busy one may take."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory, environment):
    """The folder of a report of 5 optimizers at 4 N with 200 trials each, and its CPU seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_study, "LABELS", large_study.LABELS[:OPTIMIZERS])
        folder = large_study.write(tmp_path_factory.mktemp("size") / "study",
                                   OPTIMIZERS * len(large_study.RANKS) * EACH)
    before = os.times()
    subprocess.run([sys.executable, "-m", "bench_apts", "report", str(folder)], env=environment,
                   check=True, capture_output=True)
    after = os.times()
    return folder, (after.children_user + after.children_system
                    - before.children_user - before.children_system)


def test_the_page_is_light_and_built_in_time(built):
    folder, spent = built
    trials = OPTIMIZERS * len(large_study.RANKS) * EACH
    assert len(list((folder / "trials").iterdir())) >= trials
    assert (folder / "report.html").stat().st_size < MOST_BYTES
    assert spent < SLACK * BAR_S


def test_what_the_page_leaves_out_is_said_and_stands_in_the_files(built):
    folder, _ = built
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in ("trials", "trust-region-course", "sensitivity-lr", "tuning"):
        rows = len((folder / "tables" / f"{name}.csv").read_text().splitlines()) - 1
        assert rows > MOST_ROWS
        results = re.findall(rf"Here the first {MOST_ROWS} of (\d+) rows; the file has all\. "
                          rf'<span class="file">tables/{name}\.csv', page)
        assert sum(map(int, results)) == rows
    bodies = re.findall(r"<tbody>.*?</tbody>", page, re.DOTALL)
    assert max(body.count("<tr") for body in bodies) == MOST_ROWS
    trained = re.findall(r"<figcaption[^>]*>.*?figures/digits-n\d-radius\.svg", page)
    assert len(trained) == len(large_study.RANKS)
    assert all(f"Single: the first {SINGLE} seeds of each." in caption for caption in trained)
