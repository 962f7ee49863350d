"""Projected studies: which trials they rest on, and the same numbers by hand."""

import shutil
import statistics

import msgspec
import pandas as pd
import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.reports import modelled_times
from bench_apts.reports.gather import gather
from bench_apts.stats.modelled_training import BatchScaling
from bench_apts.stats.network_model import Algorithm, load_fabrics
from bench_apts.stats.network_model import networks as networks_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixture.populate(tmp_path_factory.mktemp("results") / "study")


def rows(folder, ranks=(8, 64), names=("eth10g",), scalings=(BatchScaling.strong,)):
    networks = networks_of(names, load_fabrics(), 1, "nvlink4")
    return modelled_times.project_times(gather(folder), ranks, networks, scalings, Algorithm.ring)


def test_numbers_are_those_of_the_seeds_at_the_largest_n(folder):
    found, notes = rows(folder)
    assert notes == [
        "time to the target is not modelled for apts on digits at N = 64 and more, strong "
        "scaling: a minibatch of 128 was never run"]
    assert [(r.cell.label, r.ranks) for r in found] == [
        (label, n) for label in fixture.PACE for n in (8, 64)]
    assert {r.cell.ranks for r in found} == {2}
    row = next(r for r in found if (r.cell.label, r.ranks) == ("sgd", 8))
    # One all-reduce of the gradient each step; a rank computes on a quarter of what it had.
    payload = 4 * fixture.PARAMETERS
    communication = 14 * 30e-6 + 2 * 7 / 8 * payload / 1.25e9
    compute = 0.0015 / 8  # as one rank alone; at N = 2 a step takes 1.3 times as long
    steps = statistics.median(next(
        a.step for a, b in zip(r.evals, r.evals[1:], strict=False)
        if min(e.validation["accuracy"] for e in (a, b)) >= 0.94) for r in row.cell.seeds)
    assert row.middle.communication_s == pytest.approx(communication)
    # Whole steps only: the last minibatch of the fixture is a little short.
    assert row.middle.compute_s == pytest.approx(compute, rel=0.01)
    assert row.middle.to_target_s == pytest.approx(steps * (communication + compute), rel=0.01)
    assert (row.hits, row.basis) == (2, "cpu_s at N = 1")
    assert "modelled_step_s" in row.numbers()


def test_misses_have_no_time_to_target(folder):
    found, _ = rows(folder)
    row = next(r for r in found if r.cell.label == fixture.NASTY)
    assert row.hits == 0
    assert row.text.endswith(" / no hit")
    assert row.numbers()["modelled_to_target_s"] is None
    assert row.numbers()["modelled_step_s"] > 0


def test_no_smaller_share_than_a_sample(folder):
    found, _ = rows(folder, ranks=(65,), scalings=tuple(BatchScaling))
    for row in found:
        if row.cell.label == "apts":  # keeps 2 samples to a rank, and so a larger minibatch
            assert row.middle is not None
            continue
        assert (row.middle is None) == (row.scaling == "strong")
        assert (row.text == "–") == (row.numbers()["modelled_step_s"] is None)


def test_one_rank_and_no_meter_are_no_ground_to_stand_on(tmp_path):
    alone = fixture.populate(tmp_path / "alone", fixture.study(ranks=(1,)))
    found, notes = rows(alone)
    assert found == []
    assert len(notes) == len(fixture.PACE)
    assert "sgd on digits is not projected: no report-stage trial at N = 2 or more" in notes[1]
    blind = fixture.populate(tmp_path / "blind", fixture.study(ranks=(2,)))
    for path in (blind / "trials").glob("*.jsonl"):
        path.write_text(path.read_text().replace("c10d pre-hook", "none (torch is too old)"))
    assert rows(blind)[0] == []


def test_without_one_rank_alone_nothing_is_modelled(tmp_path):
    folder = fixture.populate(tmp_path / "study", fixture.study(ranks=(2,)))
    found, notes = rows(folder)
    assert found == []
    assert notes[1].startswith("sgd on digits is not modelled: needs N = 1")


def test_a_collective_that_the_model_does_not_know_is_said(tmp_path):
    folder = fixture.populate(tmp_path / "study", fixture.study(ranks=(1, 2)))
    for path in (folder / "trials").glob("*.jsonl"):
        path.write_text(path.read_text().replace("all_reduce", "all_guess"))
    found, notes = rows(folder)
    assert found == []
    assert "the model does not know the collective all_guess" in notes[0]


def test_on_gpus_computing_is_that_of_one_rank(folder):
    gathered = gather(folder)
    for record in gathered.trials:
        record.header.trial = msgspec.structs.replace(record.trial, device="cuda")
    networks = networks_of(["eth10g"], load_fabrics(), 1, "nvlink4")
    found, _ = modelled_times.project_times(
        gathered, (2,), networks, (BatchScaling.strong,), Algorithm.best
    )
    row = next(r for r in found if r.cell.label == "sgd")
    assert row.basis == "train_s at N = 1"
    # Whole steps only: the last minibatch of the fixture is a little short.
    assert row.middle.compute_s == pytest.approx(0.0015 / 2, rel=0.01)


def test_the_command_prints_and_writes_what_it_modelled(cli, finished):
    done = cli("project", finished.folder, "--ranks", "8,128", "--fabric", "ib-ndr,wan")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].strip() == "digits: modelled step time / modelled time to target"
    assert lines[1].split() == ["optimizer", "measured", "at", "scaling", "fabric", "N=8", "N=128"]
    assert len([line for line in lines if " strong " in line or " weak " in line]) == 3 * 2 * 2
    assert "\x1b" not in done.out
    assert "All times are modelled, none is measured" in done.out
    assert "time to the target is given where such a global minibatch was run" in done.out
    assert "more ranks than the global minibatch has samples" in done.out
    path = finished.folder / "tables" / "projection.csv"
    assert lines[-1] == f"table: {path}"
    table = pd.read_csv(path)
    assert len(table) == 3 * 2 * 2 * 2
    known = table.dropna(subset=["modelled_step_s"])
    wan, near = (known[known["fabric"] == name]["modelled_communication_s"].to_numpy()
                 for name in ("wan", "ib-ndr"))
    assert (wan > near).all()


def test_the_command_takes_own_networks_and_nodes(cli, finished, tmp_path):
    mine = tmp_path / "my.toml"
    mine.write_text('[moon]\nbytes_per_s = 1e6\nlatency_s = 1.3\nsource = "speed of light"\n')
    arguments = ("project", finished.folder, "--fabrics", mine, "--fabric", "moon",
                 "--ranks", "16", "--scaling", "weak")
    path = finished.folder / "tables" / "projection.csv"
    means = []
    for extra in ((), ("--node-ranks", "8"), ("--node-ranks", "8", "--algorithm", "ring")):
        assert cli(*arguments, *extra).code == 0
        means.append(pd.read_csv(path)["modelled_communication_s"].mean())
    flat, nodes, ring = means
    assert nodes < flat < ring


def test_the_report_models_as_the_command_does(folder, undrawn, tmp_path):
    copy = tmp_path / "study"
    shutil.copytree(folder, copy)
    page = reports.build(copy).read_text(encoding="utf-8")
    assert "Modelled, not measured: nobody ran this." in page
    modelled = pd.read_csv(copy / "tables" / "modelled.csv")
    networks = networks_of([*load_fabrics()], load_fabrics(), 1, "nvlink4")
    expected, _ = modelled_times.project_times(
        gather(copy), (2, 8, 64, 512, 4096), networks, list(BatchScaling), Algorithm.best
    )
    known = [row.numbers() for row in expected if row.middle is not None]
    assert len(modelled) == len(known) > 100
    for column in ("modelled_step_s", "modelled_to_target_s"):
        assert sorted(modelled[column].dropna()) == pytest.approx(
            sorted(row[column] for row in known if row[column] is not None))
    assert set(modelled["scaling"]) == {"strong", "weak"}


def test_a_study_of_single_ranks_models_nothing(tmp_path, undrawn):
    page = reports.build(fixture.populate(tmp_path / "study", fixture.study(ranks=(1,))))
    assert "Modelled time on other networks" not in page.read_text(encoding="utf-8")
    assert not (tmp_path / "study" / "tables" / "modelled.csv").exists()


def test_a_record_does_not_decide_which_code_runs(tmp_path, undrawn):
    plugin = tmp_path / "mine.py"
    plugin.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    study = fixture.populate(tmp_path / "study")
    for path in (study / "trials").glob("*.jsonl"):
        path.write_text(path.read_text().replace('"plugin":"builtin"', f'"plugin":"{plugin}"'))
    found, notes = rows(study)
    reports.build(study)
    assert found
    assert f"sgd on digits is modelled with the suite's minibatch: {plugin.name} is not run" in (
        " ".join(notes))
    assert not (tmp_path / "ran").exists()
