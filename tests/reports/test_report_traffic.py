"""Communication: bytes of a step against formulas, by phase and collective."""

import re
from unittest import mock

import msgspec
import pytest
import report_fixture as fixture

from bench_apts.core import store
from bench_apts.core.files import write_json
from bench_apts.core.records import Traffic
from bench_apts.core.spec import Entry, Study
from bench_apts.reports.sections import collective_traffic as section

P = 4 * fixture.PARAMETERS
STEPS = 437

BUILT_IN = "bench_apts.optimizers."

# Plug-in, and payload of all calls in training by collective. At N = 4 the 6,570 parameters are
# padded to 6,576 for stages 1 and 2 of ZeRO.
SENT = {
    "sgd": (BUILT_IN + "sgd:backend", {"all_reduce": (STEPS, STEPS * P)}),
    "local": (BUILT_IN + "low_communication:local_sgd", {"all_reduce": (50, 50 * P + 20 * 24)}),
    "zero1": (BUILT_IN + "deepspeed_zero:zero1", {
        "all_reduce": (2 * STEPS, STEPS * (P + 4)), "all_gather": (STEPS, STEPS * 4 * 6_576)}),
    "mine": ("mine.py", {"all_reduce": (STEPS, 2 * STEPS * P)}),
    "half": (BUILT_IN + "adam:backend", {"all_reduce": (STEPS, STEPS * P // 2)}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "study"
    folder.mkdir()
    study = Study((fixture.SUITE,), tuple(Entry(label, label) for label in SENT), (1, 4), 0, 1, 0,
                  "cpu")
    write_json(folder / "study.json", store.StudyFile(
        study, [], "2026-01-02T03:00:00+00:00", fixture.ENVIRONMENT))
    for label, (plugin, sent) in SENT.items():
        for ranks in study.ranks:
            spec = fixture.trial(label, ranks, "report", optimizer=label, plugin=plugin,
                                 tuning_free=True, hyperparameters={})
            curve = fixture.evals(spec, pace=1.0, step_s=0.01, backwards=1, every=1)
            assert curve[-1].step == STEPS
            moved = {} if ranks == 1 else {
                "train": {collective: Traffic(calls, payload, factor(collective) * payload)
                          for collective, (calls, payload) in sent.items()},
                "eval": {"all_reduce": Traffic(21, 336, 1.5 * 336)},
                "warmup": {"all_reduce": Traffic(3, 3 * P, 1.5 * 3 * P)}}
            curve[-1] = msgspec.structs.replace(curve[-1], comm=moved)
            fixture.write(folder, spec, curve, "hit", test=0.95)
    return folder


def factor(collective):
    return 1.5 if collective == "all_reduce" else 0.75


@pytest.fixture(scope="module")
def part(folder):
    return fixture.build_section(section, folder)


@pytest.fixture(scope="module")
def rows(part):
    return {(row["optimizer"], row["collective"]): row
            for row in fixture.listings(part)["known-traffic"].records()}


def test_bytes_that_meet_their_formula_differ_by_nothing(rows):
    row = rows["sgd", "all_reduce"]
    assert (row["formula"], row["unit"], row["units"]) == ("2f·P", "step", STEPS)
    assert row["measured_bytes"] == row["expected_bytes"] == 1.5 * P
    assert row["difference_bytes"] == 0
    assert rows["zero1", "all_gather"]["expected_bytes"] == 0.75 * 4 * 6_576
    assert rows["zero1", "all_gather"]["difference_bytes"] == 0
    assert rows["zero1", "all_reduce"]["difference_bytes"] == 0
    assert {key[0] for key in rows} == set(SENT)  # and nothing of N = 1
    assert {row["ranks"] for row in rows.values()} == {4}


def test_differences_are_told_with_their_sign(part, rows):
    assert rows["half", "all_reduce"]["difference_bytes"] == -0.75 * P
    table = fixture.listings(part)["known-traffic"]
    shown = {row[0].text: row[-1] for row in table.rows}
    assert (shown["half"].text, shown["half"].detail) == ("−19.7\u202fkB", "−50.0\u202f%")
    assert (shown["sgd"].text, shown["sgd"].detail) == ("0", "")


def test_rounds_of_local_steps_are_what_a_formula_counts(rows):
    row = rows["local", "all_reduce"]
    assert (row["unit"], row["units"]) == ("round", 50)
    # 24 bytes more in 20 of 50 rounds.
    assert row["difference_bytes"] == pytest.approx(1.5 * 24 * 20 / 50)


def test_what_has_no_known_formula_says_so(part, rows):
    row = rows["mine", "all_reduce"]
    assert row["formula"] is row["expected_bytes"] is row["difference_bytes"] is None
    assert row["measured_bytes"] == 3 * P
    line = next(row for row in fixture.listings(part)["known-traffic"].rows
                if row[0].text == "mine")
    assert line[2].text == "none known"
    assert "none is known for mine" in part.finding


def test_the_finding_compares_all_that_have_a_formula(part):
    local = 50 * P + 20 * 24
    assert part.finding == (
        f"A step at N = 4 sends from {1.5 * local / STEPS / 1e3:.2f}\u202fkB (local) to "
        "78.8\u202fkB (mine) per rank; over all N > 1, 2 of 4 meet their formula to the byte; "
        "the largest difference is 50\u202f%, half at N = 4; none is known for mine.")


def test_equal_bytes_are_no_range(tmp_path):
    plan = msgspec.structs.replace(fixture.study((2,)), entries=(
        Entry("lion", "lion"), Entry("muon", "muon")))
    with mock.patch.dict(fixture.PACE, dict.fromkeys(("lion", "muon"), (1.5, 0.002, 1, 1)),
                         clear=True):
        part = fixture.build_section(section, fixture.populate(tmp_path / "study", plan))
    assert part.finding.startswith("A step at N = 2 sends 26.3\u202fkB per rank; over all N > 1, ")


def test_figures_hold_bytes_of_a_step_and_of_all_phases(part):
    figures = fixture.figures(part)
    assert list(figures) == ["n4-bytes-step", "n4-bytes-phase"]
    steps = {row["optimizer"]: row for row in figures["n4-bytes-step"].data.records()}
    assert steps["sgd"]["measured_bytes"] == steps["sgd"]["formula_bytes"] == 1.5 * P
    assert steps["local"]["formula_bytes"] == pytest.approx(50 * 1.5 * P / STEPS)
    assert (steps["local"]["rounds"], steps["sgd"]["rounds"]) == (50, None)
    assert steps["mine"]["formula_bytes"] is None
    phases = {row["optimizer"]: row for row in figures["n4-bytes-phase"].data.records()}
    assert phases["zero1"]["train_bytes"] == pytest.approx(
        STEPS * (1.5 * (P + 4) + 0.75 * 4 * 6_576))
    assert phases["sgd"]["eval_bytes"] == 504
    assert phases["sgd"]["warmup_bytes"] == 4.5 * P
    assert "Fewest in training: local" in figures["n4-bytes-phase"].caption
    for figure in figures.values():
        assert re.search(r"<text[^>]*>zero1</text>", figure.inline)
        assert "One training of each optimizer" in figure.basis


def test_every_call_is_listed_by_phase_and_collective(part):
    found = {(row["optimizer"], row["phase"], row["collective"]): row["calls"]
             for row in fixture.listings(part)["communication"].records()}
    assert found["zero1", "train", "all_gather"] == STEPS
    assert len(found) == 3 * 5 + 1


def test_no_traffic_makes_no_section(tmp_path):
    alone = fixture.populate(tmp_path / "study", fixture.study((1,), 0, 1))
    assert fixture.build_section(section, alone) is None
