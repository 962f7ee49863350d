from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_json
from bench_apts.core.spec import Searched
from bench_apts.reports.caveats import all_caveats, on_the_edge
from bench_apts.reports.gather import gather

SHAPE = {"pace": 1.1, "step_s": 0.002, "backwards": 1, "every": 1}
LATER = "2026-02-02T00:00:00+00:00"


@pytest.fixture
def folder(tmp_path):
    return fixture.populate(tmp_path / "study", fixture.study(ranks=(1,)))


def add(folder, **changes):
    values = {"label": "sgd", "ranks": 1, "stage": "report", "repetition": 7, **changes}
    spec = fixture.trial(**values)
    fixture.write(folder, spec, fixture.evals(spec, **SHAPE), "hit", test=0.9, time=LATER)
    return spec


def cell(gathered, label="sgd"):
    return next(c for c in gathered.groups[0].cells if c.label == label)


def test_the_frozen_configuration_takes_its_seeds(folder):
    found = cell(gather(folder))
    assert found.frozen.trial.repetition == 1
    assert len(found.tune) == 3
    assert [r.trial.repetition for r in found.seeds] == [0, 1]
    assert all(r.trial.hyperparameters == found.frozen.trial.hyperparameters
               for r in found.seeds)
    assert gather(folder).left_out == {}


def test_a_tuning_free_optimizer_has_only_seeds(folder):
    found = cell(gather(folder), "apts")
    assert found.tuning_free
    assert found.frozen is None
    assert found.draws == found.seeds


@pytest.mark.parametrize(("changes", "reason"), [
    ({"label": "lion"}, "optimizer"),
    ({"ranks": 8}, "another device"),
    ({"device": "cuda"}, "another device"),
    ({"suite": msgspec.structs.replace(fixture.SUITE, version=2)}, "another suite"),
    ({"hyperparameters": {"lr": 9.0, "momentum": 0.9}}, "another configuration"),
])
def test_what_does_not_belong_is_left_out_and_counted(folder, changes, reason):
    before = gather(folder)
    add(folder, **changes)
    after = gather(folder)
    assert len(after.trials) == len(before.trials)
    [(text, number)] = after.left_out.items()
    assert reason in text
    assert number == 1


def test_newer_data_and_newer_code_win(folder):
    count = len(gather(folder).trials)
    add(folder, data_sha256="e" * 64)
    after = gather(folder)
    assert [r.trial.data_sha256 for r in after.trials] == ["e" * 64]
    assert after.left_out == {"older data of another fingerprint": count}


def test_other_code_of_one_optimizer_leaves_the_others_alone(folder):
    add(folder, plugin_sha256="q" * 64)
    after = gather(folder)
    assert {r.trial.plugin_sha256 for r in cell(after).draws} == {"q" * 64}
    assert len(cell(after, "adam").tune) == 3


def test_a_study_without_tuning_ignores_older_tuning_trials(folder):
    file = store.read_study(folder)
    file.study = msgspec.structs.replace(file.study, trials=0)
    write_json(folder / "study.json", file)
    after = gather(folder)
    assert not cell(after).tune
    assert len(cell(after).seeds) == 2
    assert "tuning trials, while the study asks for none" in after.left_out


def test_nothing_finished_is_one_clear_line(tmp_path):
    folder = fixture.populate(tmp_path / "study", fixture.study(ranks=(1,), trials=0, seeds=0))
    with pytest.raises(UserError, match="no finished trial"):
        gather(folder)
    spec = fixture.trial("sgd")
    fixture.write(folder, spec, fixture.evals(spec, until=3, **SHAPE), None)
    with pytest.raises(UserError, match="no finished trial"):
        gather(folder)


def test_ranks_on_several_machines_are_told_of(tmp_path):
    folder = fixture.populate(tmp_path / "study")
    assert "Ranks on several machines" not in [c.title for c in all_caveats(gather(folder))]
    for path in (folder / "trials").glob("*.jsonl"):
        head, *rest = path.read_bytes().splitlines(keepends=True)
        header = msgspec.json.decode(head)
        header["environment"]["nodes"] = [{"hostname": "one"}, {"hostname": "two"}][
            :header["trial"]["ranks"]]
        path.write_bytes(msgspec.json.encode(header) + b"\n" + b"".join(rest))
    (caveat,) = [c for c in all_caveats(gather(folder)) if c.title == "Ranks on several machines"]
    assert "spread over one and two" in caveat.text


def test_no_study_at_all(tmp_path):
    with pytest.raises(UserError, match="not a results folder"):
        gather(tmp_path)


def test_a_tuning_free_optimizer_has_one_configuration_everywhere(tmp_path):
    folder = fixture.populate(tmp_path / "study")
    cells = [cell for group in gather(folder).groups for cell in group.cells]
    assert [c.badge for c in cells if c.label == "apts"] == ["no tuning"] * 2
    for number in (0, 1):
        spec = fixture.trial("apts", 2, "report", number, hyperparameters={"radius": 0.2})
        fixture.write(folder, spec, fixture.evals(spec, **SHAPE), "hit", test=0.9, time=LATER)
    cells = [cell for group in gather(folder).groups for cell in group.cells]
    assert [c.badge for c in cells if c.label == "apts"] == ["", ""]
    assert "Several configurations" in [c.title for c in all_caveats(gather(folder))]


@pytest.mark.parametrize(("value", "low", "high", "found"), [
    (0.01, 1e-4, 1.0, []), (1.2e-4, 1e-4, 1.0, ["lr"]), (0.9, 1e-4, 1.0, ["lr"]),
    (0.5, 0.0, 1.0, []), (0.96, 0.0, 1.0, ["lr"]), (1.0, 0.0, 1.0, ["lr"]),
    (1, 1.0, 64.0, ["lr"]), (8, 1.0, 64.0, []), (64, 1.0, 64.0, ["lr"]), (2, 1.0, 3.0, [])])
def test_an_optimum_at_the_edge_of_its_range_is_named(folder, value, low, high, found):
    searched = Searched("random", "none", "narrow", 1, {"lr": (low, high)})
    record = cell(gather(folder)).frozen
    record.header.trial = msgspec.structs.replace(
        record.trial, searched=searched, hyperparameters={"lr": value})
    assert on_the_edge(replace(cell(gather(folder)), frozen=record)) == found


def older(tmp_path, files):
    """Writes a study as older versions did, which called plug-in files by their paths."""
    plan = fixture.study(ranks=(1,))
    labels = {e.label: next((path for path, (label, _) in files.items() if label == e.label),
                            e.label) for e in plan.entries}
    plan = msgspec.structs.replace(plan, entries=tuple(
        msgspec.structs.replace(e, label=labels[e.label], optimizer=labels[e.label].split("[")[0])
        for e in plan.entries))
    folder = fixture.populate(tmp_path / "study", plan)
    for path in (folder / "trials").glob("*.jsonl"):
        head, *rest = path.read_bytes().splitlines(keepends=True)
        header = msgspec.json.decode(head)
        spec = header["trial"]
        if (file := labels[spec["label"]]) in files:
            spec |= {"label": file, "optimizer": files[file][1], "plugin": file.split("[")[0]}
        path.write_bytes(msgspec.json.encode(header) + b"\n" + b"".join(rest))
    file = store.read_study(folder)
    file.code = dict.fromkeys(labels.values(), "p" * 64)
    write_json(folder / "study.json", file)
    return folder


def labels(folder):
    return [c.label for c in gather(folder).groups[0].cells]


def test_files_of_older_studies_are_called_by_their_backends_names(tmp_path, undrawn):
    folder = older(tmp_path, {"/home/me/first.py[lr=0.1]": ("sgd", "mine"),
                              "second.py": ("adam", "other")})
    found = gather(folder)
    assert labels(folder) == ["apts", "mine[lr=0.1]", "other", fixture.NASTY]
    assert set(found.file.code) == set(labels(folder))
    assert [r.trial.repetition for r in cell(found, "mine[lr=0.1]").seeds] == [0, 1]
    assert found.left_out == {}
    reports.build(folder, formats=("html", "json", "csv"))
    for path in (folder / "report.html", folder / "report.json", *folder.glob("tables/*.csv")):
        assert "/home/me" not in path.read_text(encoding="utf-8")


def test_files_of_one_name_keep_their_paths(tmp_path):
    folder = older(tmp_path, {"/a/mine.py": ("sgd", "mine"), "/b/mine.py": ("adam", "mine")})
    assert labels(folder) == ["apts", "/a/mine.py", "/b/mine.py", fixture.NASTY]
