"""Reports of several studies as one site."""

import re

import html_tree
import msgspec
import pytest
import report_fixture as fixture

from bench_apts.core.errors import UserError
from bench_apts.reports.study_gallery import build_gallery


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two folders of one name; the second is newer and has a target that nobody reaches."""
    root = tmp_path_factory.mktemp("gallery")
    hard = msgspec.structs.replace(
        fixture.SUITE, name="hard", target=msgspec.structs.replace(
            fixture.SUITE.target, value=0.999))
    first = fixture.populate(root / "a" / "study", fixture.study((1, 2), 0, 1))
    second = fixture.populate(root / "b" / "study", fixture.study((1,), 0, 1, (hard,)))
    path = second / "study.json"
    path.write_text(re.sub(r'"created": ?"20\d\d', '"created":"2031', path.read_text()))
    return first, second


def test_the_index_lists_suites_and_optimizers_newest_first(studies, undrawn, tmp_path, cli):
    (tmp_path / "other").mkdir()
    done = cli("gallery", *studies, tmp_path / "other", "--out", tmp_path / "site")
    assert (done.code, done.err) == (0, "")
    assert f"note: {tmp_path / 'other'} holds no study.json and is left out" in done.out
    index = tmp_path / "site" / "index.html"
    assert done.out.splitlines()[-1] == f"gallery: {index}"
    page = index.read_text(encoding="utf-8")
    tree = html_tree.parse(page)
    rows = [[html_tree.text(cell) for cell in row] for row in tree.find(".//tbody")]
    assert [row[:2] for row in rows] == [["hard", "1"], ["digits", "1"], ["digits", "2"]]
    heads = [html_tree.text(cell) for cell in tree.find(".//thead/tr")]
    assert heads[2:2 + len(fixture.PACE)] == list(fixture.PACE)
    assert rows[0][2:2 + len(fixture.PACE)] == ["missed: 0 of 1"] * len(fixture.PACE)
    assert "1.00" in rows[1]
    assert "No optimizer reached the target." in rows[0]
    targets = [link.get("href") for link in tree.iter("a") if link.get("href")[0] != "#"]
    assert {target.partition("/")[0] for target in targets} == {"study", "study-2"}
    for target in targets:
        name, _, anchor = target.partition("#")
        assert not anchor or f'id="{anchor}"' in (index.parent / name).read_text(encoding="utf-8")
    assert "http:" not in page
    assert "https:" not in page


def test_no_study_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no folder with a study\.json"):
        build_gallery([], tmp_path)
