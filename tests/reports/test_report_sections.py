"""Sections are found by themselves: a module in the folder, or an installed package's."""

import json
import shutil
from pathlib import Path

import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.reports import sections

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "my_section.py"
BROKEN = {
    "raises": "raise RuntimeError('of all things')",
    "empty": "",
    "taken": "from bench_apts.reports.section_parts import Section\n"
             "SECTION = Section('scaling', 'Mine', 95)\ndef part(context): return None\n",
    "fails": "from bench_apts.reports.section_parts import Section\n"
             "SECTION = Section('fails', 'Mine', 95)\ndef part(context): return 1 / 0\n",
    "text": "from bench_apts.reports.section_parts import Section\n"
            "SECTION = Section('text', 'Mine', 95)\ndef part(context): return 'text'\n"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return fixture.populate(tmp_path_factory.mktemp("results") / "study",
                            fixture.study((1,), 0, 1))


def built(study, out):
    reports.build(study, ("html", "json"), out=out)
    return json.loads((out / "report.json").read_text())


def test_the_example_of_the_documentation_is_a_section_of_a_package(study, install, tmp_path):
    install("sections", throughput=EXAMPLE.read_text())
    document = built(study, tmp_path / "out")
    (suite,) = document["suites"]
    assert [part["slug"] for part in suite["parts"]][-2:] == ["detail", "throughput"]
    rates = {row["optimizer"]: row["samples_per_s"] for row in document["tables"]["throughput"]}
    assert list(rates) == list(fixture.PACE)
    assert rates["sgd"] == pytest.approx(64 / 0.0015, rel=0.01)
    assert suite["parts"][-1]["finding"].startswith(f"Most: {max(rates, key=rates.get)} at N = 1")


def test_what_a_package_does_wrong_is_a_line_and_the_page_is_complete(study, install, tmp_path):
    plain = built(study, tmp_path / "plain")
    install("sections", **BROKEN)
    document = built(study, tmp_path / "out")
    assert document["suites"] == plain["suites"]
    lines = [caveat["text"] for caveat in document["caveats"]
             if caveat["title"] == "A section that failed"]
    assert len(lines) == len(BROKEN)
    for name, said in (("raises", "RuntimeError: of all things"), ("empty", "no SECTION"),
                       ("taken", "'scaling' is taken"), ("fails", "ZeroDivisionError"),
                       ("text", "returned str")):
        (line,) = [line for line in lines if f"section '{name}' (strange_{name})" in line]
        assert said in line
        assert "\n" not in line


def test_a_built_in_section_is_one_file(study, tmp_path, monkeypatch):
    shutil.copy(EXAMPLE, tmp_path / "throughput.py")
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    found, failures = sections.find_sections()
    assert "throughput" in [each.section.anchor for each in found]
    assert failures == []
