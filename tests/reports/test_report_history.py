"""History over commits: result files written by asv itself, read and drawn by us."""

import datetime as dt
import json
import math
from types import SimpleNamespace

import pytest
import report_fixture

from bench_apts import reports
from bench_apts.core.errors import UserError
from bench_apts.reports import asv_results as history
from bench_apts.reports.section_parts import Listing, Pictures, StudyContext
from bench_apts.reports.sections import commit_history as section

asv = pytest.importorskip("asv.results")

BACKENDS = ["'adam'", "'apts'", "'sgd'"]
COMMITS = ("a" * 40, "b" * 40, "c" * 40)
BYTES = ([100.0, 30.0, 100.0], [100.0, 45.0, 100.0], [100.0, 60.0, 80.0])


def write(folder, number, values, *, name="per_step.track_bytes_per_step", version="1",
          machine="box", params=(BACKENDS,)):
    """Stores one benchmark at one commit, by asv's own code."""
    empty = [None] * len(values)
    result = SimpleNamespace(
        result=values, samples=empty, stats=empty, number=empty, params=list(params),
        errcode=0, stderr="", profile=None)
    found = asv.Results({"machine": machine}, {}, COMMITS[number], 1_000 * (number + 1), "3.11",
                        "existing", {})
    found.load_data(str(folder))
    found.add_result({"name": name, "version": version, "params": list(params)}, result,
                     started_at=dt.datetime(2026, 1, 1 + number, tzinfo=dt.UTC), duration=1.0)
    found.save(str(folder))
    (folder / machine / "machine.json").write_text(
        json.dumps({"machine": machine, "version": 1}))
    (folder / "benchmarks.json").write_text(json.dumps({
        "per_step.track_bytes_per_step": {"unit": "bytes", "version": "1"},
        "version": 2}))


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for number, values in enumerate(BYTES):
        write(folder, number, list(values))
    return folder


def built(folder):
    return section.part(StudyContext((), history.read_history(folder)))


def test_every_number_comes_back_in_the_order_of_the_commits(results):
    found = history.read_history(results)
    assert found.commits == list(COMMITS)
    assert {line.parameters: [p.value for p in line.points] for line in found.lines} == {
        "adam": [100, 100, 100], "apts": [30, 45, 60], "sgd": [100, 100, 80]}
    assert {(line.unit, line.machine) for line in found.lines} == {("bytes", "box")}
    assert [line.ratio for line in found.lines] == [1, 2, 0.8]


def test_the_finding_the_table_and_the_figure_agree(results):
    part = built(results)
    assert "Of 3 numbers over 3 commits, aaaaaaa to ccccccc, 1 grew and 1 fell" in part.finding
    assert "the most bytes per step of apts, 2.00 times its first" in part.finding
    (figure,) = [f for b in part.blocks if isinstance(b, Pictures) for f in b.figures]
    assert "2 of 3 numbers changed" in figure.caption
    assert "3 commits and 3 numbers on box" in figure.basis
    assert [r["value"] for r in figure.data.records()] == [
        value for backend in zip(*BYTES, strict=True) for value in backend]
    assert ">apts<" in figure.inline
    (table,) = [b.table for b in part.blocks if isinstance(b, Listing)]
    assert [(r["parameters"], r["first"], r["latest"], r["ratio"]) for r in table.records()] == [
        ("apts", 30, 60, 2), ("sgd", 100, 80, 0.8), ("adam", 100, 100, 1)]


def test_a_failure_is_words_and_a_skipped_benchmark_is_nothing(results):
    write(results, 2, [100.0, None, math.nan])
    assert "NaN" in next((results / "box").glob("cccc*.json")).read_text()
    part = built(results)
    assert "1 benchmark failed at the latest commit" in part.finding
    (figure,) = [f for b in part.blocks if isinstance(b, Pictures) for f in b.figures]
    assert "1 of 3 numbers changed" in figure.caption
    assert "Failed at the latest commit: apts." in figure.caption
    (table,) = [b.table for b in part.blocks if isinstance(b, Listing)]
    rows = {row[1].text: row for row in table.rows}
    assert rows["apts"][5].text == "failed"
    assert rows["sgd"][3].text == "2"


def test_what_never_changed_is_a_table_and_no_figure(tmp_path):
    for number in range(3):
        write(tmp_path, number, [100.0, 30.0, 100.0])
    part = built(tmp_path)
    assert part.finding == "None of 3 numbers changed over 3 commits, aaaaaaa to ccccccc."
    (listing,) = part.blocks
    assert not listing.folded
    assert {row["ratio"] for row in listing.table.records()} == {1}


def test_commits_of_one_date_stand_in_the_order_they_were_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "COMMITS", ("c" * 40, "a" * 40, "b" * 40))
    for number, values in enumerate(BYTES):
        write(tmp_path, number, list(values))
        (path,) = (tmp_path / "box").glob(f"{COMMITS[number][:8]}*.json")
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"date": 1_000}))
    assert history.read_history(tmp_path).commits == list(COMMITS)


def test_a_number_that_came_back_is_told_and_one_that_began_at_zero_is_not_drawn(tmp_path):
    for number, values in enumerate(([100.0, 0.0, 7.0], [120.0, 3.0, 7.0], [100.0, 3.0, 7.0])):
        write(tmp_path, number, values)
    part = built(tmp_path)
    assert "1 grew and 0 fell, and 1 changed and came back" in part.finding
    assert "the most bytes per step of apts, whose first is 0" in part.finding
    (figure,) = [f for b in part.blocks if isinstance(b, Pictures) for f in b.figures]
    assert "1 of 2 numbers changed; latest over first: adam 1.00 times." in figure.caption
    assert "Not drawn, with one number or a first of 0: apts." in figure.caption


def test_numbers_of_another_version_are_left_out_and_counted(results):
    write(results, 0, [7.0, 7.0, 7.0], version="0")
    found = history.read_history(results)
    assert found.outdated == 3
    assert found.commits == list(COMMITS[1:])


def test_one_commit_is_nothing_to_compare(tmp_path):
    write(tmp_path, 0, [1.0, 2.0, 3.0])
    part = built(tmp_path)
    assert part.finding == ("asv has stored 3 numbers at one commit, aaaaaaa; nothing to compare "
                            "yet.")
    assert not [b for b in part.blocks if isinstance(b, Pictures)]


def test_a_benchmark_without_parameters_and_a_second_machine(results):
    write(results, 0, [5.0], name="other.track_x", params=(), machine="second")
    found = history.read_history(results)
    (line,) = [line for line in found.lines if line.machine == "second"]
    assert (line.parameters, line.unit, [p.value for p in line.points]) == ("", "", [5.0])


@pytest.mark.parametrize(("content", "said"), [
    ("{", "is not a result file"), ('{"version": 2}', "is not a result file"),
    ('{"version": 1, "commit_hash": "a", "date": 1, "params": {}, "result_columns": [], '
     '"results": {}}', "asv update"),
    ('{"version": 2, "commit_hash": "a", "date": 1, "params": {}, "result_columns": '
     '["result", "params"], "results": {"x": [[1, 2], [["a"]]]}}', "2 numbers for 1"),
])
def test_a_broken_file_is_named(results, content, said):
    (results / "box" / "broken.json").write_text(content)
    with pytest.raises(UserError, match=r"broken\.json") as found:
        history.read_history(results)
    assert said in str(found.value)


def test_no_results_at_all_say_how_to_make_some(tmp_path):
    with pytest.raises(UserError, match="asv run"):
        history.read_history(tmp_path)


def test_the_report_shows_it_where_it_is_asked_for(results, tmp_path, undrawn):
    plan = report_fixture.study(ranks=(1,), trials=0, seeds=1)
    folder = report_fixture.populate(tmp_path / "study", plan)
    page = reports.build(folder, ("html", "csv"), history=results, out=tmp_path / "out")
    assert "History over commits" in page.read_text(encoding="utf-8")
    assert (tmp_path / "out" / "tables" / "history.csv").exists()
