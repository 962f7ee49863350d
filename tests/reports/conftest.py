"""The report of one study and its comparison with a changed copy, built once for all tests."""

import json
import shutil

import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.plugins import registry

FORMATS = ("html", "csv", "svg", "json", "md")


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """Results folder of ``report_fixture.populate_searched``."""
    return fixture.populate_searched(tmp_path_factory.mktemp("searched") / "study")


@pytest.fixture(scope="session")
def slower(searched, tmp_path_factory):
    """The same study, in which apts sends a quarter more bytes at each step."""
    copy = shutil.copytree(searched, tmp_path_factory.mktemp("searched") / "slower")
    for path in (copy / "trials").iterdir():
        events = [json.loads(line) for line in path.read_text().splitlines()]
        if events[0]["trial"]["label"] == "apts":
            for event in events:
                for traffic in event.get("comm", {}).get("train", {}).values():
                    traffic["ideal_bytes"] *= 1.25
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return copy


@pytest.fixture(scope="session")
def written(searched, made_once):
    """Folder of the study's report in all formats but pixels and those that need a browser."""
    def make(folder):
        out = folder / "made" / "on-demand"
        assert reports.build(searched, FORMATS, out=out) == out / "report.html"

    return made_once("written", make) / "made" / "on-demand"


@pytest.fixture(scope="session")
def compared(searched, slower, made_once):
    """Folder of the comparison of the study with the slower one."""
    return made_once("compared", lambda folder: reports.compare(
        searched, slower, FORMATS, out=folder, names=("first", "second")))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution whose modules are entry points of a group."""
    def install(group, suffix="", **modules):
        info = tmp_path / "strange-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bench_apts.{group}]\n" + "".join(
            f"{name} = strange_{name}{suffix}\n" for name in modules))
        for name, code in modules.items():
            (tmp_path / f"strange_{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        registry.forget()

    yield install
    monkeypatch.undo()
    registry.forget()
