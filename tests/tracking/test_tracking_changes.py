"""Which numbers changed, by asv's own thresholds, against the nearest commit that has any."""

import math

import clones
import pytest

from bench_apts.regress import asv_tracking
from bench_apts.reports.asv_results import BenchmarkLine, History, Measured

THRESHOLDS = {r"counts\.": 0.0, r"seconds\.": 0.25, r"seconds\.time_short": 0.5}


def measured(date, commit, value):
    return Measured(date=date, ran=date, commit=commit, value=value)


def line(benchmark, before, after, parameters="", machine="box"):
    return BenchmarkLine(machine, benchmark, parameters, "units",
                (measured(1, "a" * 40, before), measured(2, "b" * 40, after)))


def beyond(*lines, thresholds=THRESHOLDS):
    found = asv_tracking.find_changes(History(lines, 0), "box", "a" * 40, "b" * 40, thresholds)
    return found.numbers, [str(change) for change in found.beyond]


def test_any_change_of_a_count_is_told_the_worse_ones_first():
    assert beyond(
        line("counts.track_calls", 100.0, 100.0, "adam, 2"),
        line("counts.track_calls", 100.0, 99.0, "sgd, 2"),
        line("counts.track_calls", 100.0, 100.5, "apts, 2"),
        line("counts.track_calls", 0.0, 3.0)) == (4, [
            "worse  counts.track_calls(apts, 2): 100 -> 100.5 units (x 1.005)",
            "worse  counts.track_calls: 0 -> 3 units",
            "better counts.track_calls(sgd, 2): 100 -> 99 units (x 0.99)"])


def test_seconds_have_a_threshold_and_the_largest_counts():
    numbers, told = beyond(
        line("seconds.time_step", 1.0, 1.24), line("seconds.time_step", 1.0, 1.26, "slow"),
        line("seconds.time_step", 1.0, 0.7, "fast"), line("seconds.time_short", 1.0, 1.4),
        line("unnamed.track", 100.0, 104.0), line("unnamed.track", 100.0, 106.0, "more"))
    assert numbers == 6
    assert [text.split(":")[0] for text in told] == [
        "worse  seconds.time_step(slow)", "worse  unnamed.track(more)",
        "better seconds.time_step(fast)"]


def test_a_failure_is_worse_and_a_mended_one_better():
    assert beyond(line("counts.track", 5.0, None), line("counts.track", None, 5.0, "mended"),
                  line("counts.track", None, None, "still")) == (3, [
                      "worse  counts.track: 5 -> failed units",
                      "better counts.track(mended): failed -> 5 units"])


def test_other_machines_and_new_numbers_have_nothing_to_be_compared_with():
    new = BenchmarkLine("box", "counts.track_new", "", "", (measured(2, "b" * 40, 7.0),))
    assert beyond(line("counts.track", 1.0, 2.0, machine="other"), new) == (0, [])


@pytest.mark.usefixtures("git")
def test_the_nearest_ancestor_with_results_on_this_machine(tmp_path):
    clones.git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    first, second, third, fourth = (clones.commit(tmp_path, str(n)) for n in range(4))
    clones.git(tmp_path, "switch", "--quiet", "--detach", first)
    aside = clones.commit(tmp_path, "aside")

    def history(*places):
        return History(tuple(BenchmarkLine(machine, "counts.track", "", "", (
            measured(number, commit, math.pi),))
            for number, (machine, commit) in enumerate(places)), 0)

    known = history(("box", first), ("box", second), ("other", third), ("box", fourth),
                    ("box", aside))
    assert asv_tracking.last_before(tmp_path, known, "box", fourth) == second
    assert asv_tracking.last_before(tmp_path, known, "box", aside) == first
    assert asv_tracking.last_before(tmp_path, known, "other", third) is None
    assert asv_tracking.last_before(tmp_path, known, "box", first) is None
