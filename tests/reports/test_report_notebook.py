"""The notebook of a report: valid, executed, and over the report's own files."""

import json

import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.core.errors import UserError
from bench_apts.reports import notebook


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = fixture.populate(tmp_path_factory.mktemp("results") / "study",
                              fixture.study((1, 2), 2, 2))
    assert reports.build(folder, ("notebook",)) == folder
    return folder


def test_it_is_executed_and_draws_both_figures(folder):
    found = json.loads((folder / "report.ipynb").read_text(encoding="utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"])
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [1, 2, 3, 4]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    (printed,) = [output for output in outputs if output["output_type"] == "stream"]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    said = [decision["headline"] for suite in report["suites"] for decision in suite["decisions"]]
    assert all(line in "".join(printed["text"]) for line in said)
    (table,) = [output["data"] for output in outputs if output["output_type"] == "execute_result"]
    assert "apts" in "".join(table["text/html"])


def test_jupyter_takes_it(folder):
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(folder / "report.ipynb", as_version=4))


def test_it_needs_no_other_file_and_the_page_is_not_built(folder):
    assert (folder / "tables" / "curves.csv").exists()
    assert not (folder / "report.html").exists()


def test_a_cell_that_fails_is_one_line(folder, tmp_path):
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match="cell 1 failed"):
        notebook.notebook_document(tmp_path)
    with pytest.raises(UserError, match="one results folder"):
        reports.compare(folder, folder, ("notebook",), out=tmp_path)
