"""The report's other forms: JSON, Markdown, PDF, two studies side by side, and the command."""

import json
import math
import re
import webbrowser

import browser
import msgspec
import pandas as pd
import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.reports import report_formats
from bench_apts.reports.compared_studies import compare_studies
from bench_apts.reports.gather import gather
from bench_apts.reports.report_page import compose_report
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.trial_costs import outcome


def strict(content):
    """Reads JSON as the standard has it, without NaN and Infinity."""
    return json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture
def folder(searched):
    return searched


@pytest.fixture(scope="module")
def document(written):
    return strict((written / "report.json").read_bytes())


def test_the_document_says_what_it_is(document):
    assert document["kind"] == "report"
    assert document["schema"] == report_formats.SCHEMA == 1
    assert document["suites"][0]["target"] == {"metric": "accuracy", "direction": "max",
                                           "value": 0.94, "version": 1}
    assert document["suites"][0]["cap"] == {"samples": 28_000, "seconds": 120.0}
    assert [c["title"] for c in document["caveats"]]
    assert "history" not in [part["slug"] for part in document["overall"]]
    assert ["Created", "2026-01-02T03:00:00+00:00"] in document["provenance"][0]["items"]


def test_its_tables_are_the_csv_files(written, document):
    files = {path.stem for path in (written / "tables").glob("*.csv")}
    # The curves' file holds every evaluation, and no table of the page has all of them.
    assert files - {"curves"} == set(document["tables"]) - {
        name for name, rows in document["tables"].items() if not rows}
    for name in files - {"curves"}:
        frame = pd.read_csv(written / "tables" / f"{name}.csv")
        rows = document["tables"][name]
        assert len(frame) == len(rows)
        for column in frame.select_dtypes("number"):
            for value, row in zip(frame[column], rows, strict=True):
                here = row.get(column)
                assert (math.isnan(value) or math.isinf(value)) if here is None else value == here


def test_its_numbers_are_those_of_stats_on_the_raw_records(folder, document):
    records = store.read_trials(folder)
    for ranks in fixture.RANKS:
        drawn = [outcome(r) for r in records if (r.trial.label, r.trial.ranks, r.trial.stage)
                 == ("sgd", ranks, "tune")]
        expected = ert([o.spent["samples"] for o in drawn], [o.cost["samples"] for o in drawn])
        (row,) = [r for r in document["tables"]["main"]
                  if (r["optimizer"], r["ranks"]) == ("sgd", ranks)]
        assert row["ert_samples"] == pytest.approx(expected.cost, rel=1e-12)


def test_every_finding_of_the_page_is_in_the_document(written, document):
    page = (written / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    parts = [*document["suites"][0]["parts"], *document["overall"]]
    assert {"sensitivity", "trust"} <= {part["slug"] for part in parts}
    for part in parts:
        assert part["title"] in text
        shown = part["finding"].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert re.sub(r"\s+", " ", shown) in text
        for figure in part["figures"]:
            assert (written / "figures" / f"{figure['slug']}.svg").exists()
            assert figure["caption"]
    for box in document["suites"][0]["decisions"]:
        assert box["answers"]
        assert re.sub(r"\s+", " ", box["headline"]) in text


def test_every_figure_is_written_in_pixels_too(tmp_path):
    folder = fixture.populate(tmp_path / "study", fixture.study((1,), 0, 1))
    reports.build(folder, ("json", "png"))
    document = strict((folder / "report.json").read_bytes())
    drawn = [figure["slug"] for part in document["suites"][0]["parts"]
             for figure in part["figures"]]
    assert drawn
    for slug in drawn:
        assert (folder / "figures" / f"{slug}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(folder, slower, tmp_path):
    kinds = ("json", "md", "html", "csv", "svg", "png")
    for place in ("one", "other"):
        reports.build(folder, kinds, out=tmp_path / place / "report")
        reports.compare(folder, slower, kinds, out=tmp_path / place / "compared",
                        names=("first", "second"))
    for first, again in ((tmp_path / "one" / name, tmp_path / "other" / name)
                         for name in ("report", "compared")):
        names = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
        assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
        assert len(names) > 5
        for name in names:
            assert (again / name).read_bytes() == (first / name).read_bytes(), name


def test_the_markdown_is_short_and_says_who_wins(written, document):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= report_formats.LINES == 60
    for box in document["suites"][0]["decisions"]:
        assert box["heading"] in text
    assert "Expected cost" in text
    assert "| sgd |" in text
    assert "apts\\[start=0.01\\]" in text
    assert "Sensitivity: " in text


@pytest.mark.slow
def test_a_large_study_still_fits_a_comment_and_escapes_what_is_markup(tmp_path):
    suites = tuple(msgspec.structs.replace(fixture.SUITE, name=name) for name in "abcdef")
    plan = fixture.study(ranks=(1, 2), trials=0, seeds=1, suites=suites)
    folder = fixture.populate(tmp_path / "study", plan)
    lines = report_formats.summary_markdown(compose_report(gather(folder))).splitlines()
    assert len(lines) <= 60
    assert lines[-1] == "… The rest stands in report.html."
    assert any("script" in line for line in lines)
    assert not any(re.search(r"(?<!\\)<", line) for line in lines)


@pytest.mark.slow
def test_only_what_was_asked_for_is_written(folder, tmp_path):
    assert reports.build(folder, ("md",), out=tmp_path / "a") == tmp_path / "a"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.md"]
    reports.build(folder, ("csv",), out=tmp_path / "b")
    assert {path.suffix for path in (tmp_path / "b").rglob("*") if path.is_file()} == {".csv"}


@pytest.mark.slow
@browser.NEEDED
def test_the_pdf_is_the_page_as_printed(folder, tmp_path):
    reports.build(folder, ("pdf",), out=tmp_path)
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 1


def test_without_a_browser_there_is_one_line_and_no_work(cli, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = cli("report", folder, "--format", "html,pdf", "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "print report.html from any browser" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "said"), [
    (("--format", "html,jpeg"), "jpeg"), (("--format", "md", "--open"), "--open"),
    (("--history", "nowhere"), "asv run")])
def test_mistakes_end_in_one_line(cli, folder, tmp_path, arguments, said):
    done = cli("report", folder, *arguments, "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert said in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("opens", [True, False])
def test_the_page_is_opened_on_request(cli, folder, tmp_path, monkeypatch, opens):
    asked = []
    monkeypatch.setattr(webbrowser, "open", lambda url: asked.append(url) or opens)
    done = cli("report", folder, "--format", "html", "--out", tmp_path / "out", "--open")
    assert done.code == 0
    assert asked == [(tmp_path / "out" / "report.html").as_uri()]
    assert ("by hand" in done.out) is not opens


def test_two_studies_stand_side_by_side(cli, folder, slower, tmp_path, undrawn):
    done = cli("report", folder, slower, "--format", "html,csv,svg,json,md", "--out", tmp_path)
    assert (done.code, done.out) == (0, f"report: {tmp_path / 'compared.html'}\n")
    page = (tmp_path / "compared.html").read_text(encoding="utf-8")
    assert "B is worse: apts on digits at N = 2" in page
    document = strict((tmp_path / "compared.json").read_bytes())
    assert document["kind"] == "comparison"
    assert (document["a"], document["b"]) == (str(folder), str(slower))
    found = compare_studies(gather(folder), gather(slower), ("a", "b"), 1.0)
    rows = document["tables"]["compared"]
    assert len(rows) == len(found.rows) == len(pd.read_csv(tmp_path / "tables/compared.csv"))
    for row, expected in zip(rows, found.rows, strict=True):
        effect = expected.measure.effect
        assert row["effect"] == (effect if math.isfinite(effect) else None)
        assert row["verdict"] == expected.verdict
    worse = [row for row in rows if row["verdict"] == "worse"]
    assert {(row["optimizer_b"], row["ranks"], row["measure"]) for row in worse} >= {
        ("apts", 2, "wire bytes per step"), ("apts", 4, "wire bytes per step")}
    assert all(row["effect"] == 1.25 for row in worse if row["measure"] == "wire bytes per step")
    for figure in (f for part in document["parts"] for f in part["figures"]):
        assert (tmp_path / "figures" / f"{figure['slug']}.svg").exists()
    text = (tmp_path / "compared.md").read_text(encoding="utf-8")
    assert text.startswith("**B is worse")
    assert len(text.splitlines()) <= 60


def test_more_than_two_folders_or_a_history_of_two_are_refused(cli, folder, tmp_path):
    assert "one or two results folders, got 3" in cli("report", folder, folder, folder).err
    assert "--history" in cli("report", folder, folder, "--history", tmp_path).err


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        reports.build(folder, ("md",), out=tmp_path / "file")
