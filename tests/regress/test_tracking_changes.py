"""Which numbers changed, by asv's own rule, against the nearest commit that has any."""

import json

import clones
import pytest

from bench_apts.regress import asv_tracking
from bench_apts.regress.asv_tracking import AsvSettings

pytest.importorskip("asv")

THRESHOLDS = {r"counts\.": 0.0, r"seconds\.": 0.25, r"seconds\.time_short": 0.5}
COLUMNS = ["result", "params", "version", "started_at", "duration"]


def write(results, commit, numbers, machine="box", version="1"):
    """Writes a commit's numbers as asv stores them, by benchmark and parameter."""
    folder = results / machine
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps({"machine": machine, "version": 1}))
    rows = {}
    for (benchmark, parameter), value in numbers.items():
        row = rows.setdefault(benchmark, [[], [[]] if parameter else [], version, 0, 0.0])
        row[0].append(value)
        if parameter:
            row[1][0].append(f"'{parameter}'")
    (folder / f"{commit[:8]}-existing.json").write_text(json.dumps({
        "commit_hash": commit, "env_name": "existing", "date": 1, "python": "3.11",
        "params": {"machine": machine}, "requirements": {}, "env_vars": {},
        "result_columns": COLUMNS, "results": rows, "durations": {}, "version": 2}))
    (results / "benchmarks.json").write_text(json.dumps(
        {name: {"unit": "units"} for name in rows} | {"version": 2}))


@pytest.fixture
def beyond(tmp_path):
    """Compares numbers at two commits; returns how many both have, and what changed."""

    def compare(lines):
        for number, commit in enumerate("ab"):
            write(tmp_path, commit * 40, {place: values[number] for place, values in lines.items()
                                          if len(values) > number})
        found = asv_tracking.find_changes(AsvSettings(tmp_path, THRESHOLDS), "box", "a" * 40,
                                          "b" * 40)
        return found.numbers, [*found.worse, *found.better]

    return compare


def test_any_change_of_a_count_is_told_the_worse_ones_first(beyond):
    assert beyond({
        ("counts.track_calls", "adam"): (100.0, 100.0),
        ("counts.track_calls", "sgd"): (100.0, 99.0),
        ("counts.track_calls", "apts"): (100.0, 100.5),
        ("counts.track_passes", ""): (0.0, 3.0)}) == (4, [
            "worse  counts.track_calls(apts): 100 -> 100.5 units (x 1.005)",
            "worse  counts.track_passes: 0 -> 3 units",
            "better counts.track_calls(sgd): 100 -> 99 units (x 0.99)"])


def test_seconds_have_a_threshold_and_the_largest_counts(beyond):
    numbers, shown_output = beyond({
        ("seconds.time_step", "usual"): (1.0, 1.24), ("seconds.time_step", "slow"): (1.0, 1.26),
        ("seconds.time_step", "fast"): (1.0, 0.7), ("seconds.time_short", ""): (1.0, 1.4),
        ("unnamed.track", "some"): (100.0, 104.0), ("unnamed.track", "more"): (100.0, 106.0)})
    assert numbers == 6
    assert [text.split(":")[0] for text in shown_output] == [
        "worse  seconds.time_step(slow)", "worse  unnamed.track(more)",
        "better seconds.time_step(fast)"]


def test_a_failure_is_worse_and_a_mended_one_better(beyond):
    assert beyond({
        ("counts.track", "broken"): (5.0, None), ("counts.track", "mended"): (None, 5.0),
        ("counts.track", "still"): (None, None)}) == (3, [
            "worse  counts.track(broken): 5 -> failed units",
            "better counts.track(mended): failed -> 5 units"])


def test_other_machines_and_new_numbers_have_nothing_to_be_compared_with(beyond, tmp_path):
    write(tmp_path, "b" * 40, {("counts.track", ""): 2.0}, machine="other")
    assert beyond({("counts.track", ""): (1.0,), ("counts.track_old", ""): (1.0,)}) == (0, [])


@pytest.mark.usefixtures("git")
def test_the_nearest_ancestor_with_results_on_this_machine(tmp_path):
    repository, results = tmp_path / "code", tmp_path / "results"
    repository.mkdir()
    clones.git(repository, "init", "--quiet", "--initial-branch", "main")
    first, second, third, fourth = (clones.commit(repository, str(n)) for n in range(4))
    clones.git(repository, "switch", "--quiet", "--detach", first)
    aside = clones.commit(repository, "aside")
    for machine, commit in (("box", first), ("box", second), ("other", third), ("box", fourth),
                            ("box", aside)):
        write(results, commit, {("counts.track", ""): 1.0}, machine)

    def last(machine, commit):
        return asv_tracking.last_before(repository, results, machine, commit)

    assert last("box", fourth) == second
    assert last("box", aside) == first
    assert last("other", third) is None
    assert last("box", first) is None
