"""Results folders damaged in any way: every command that reads them answers in words."""

import json
import shutil

import msgspec
import pytest
import report_fixture as fixture
from answers import Answer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import PIECES, changed, damaged, json_line

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.records import Header
from bench_apts.meters import soundness
from bench_apts.reports import compared_tables as compared_text
from bench_apts.reports.compared_studies import compare_studies
from bench_apts.reports.gather import gather
from bench_apts.reports.tuning_bill import study_bill

FUZZ = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
CHANCE = st.randoms(use_true_random=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fixture.populate(tmp_path_factory.mktemp("whole") / "digits")


def hurt(whole, place, chance):
    """Copies a results folder and damages one of its files, as text or in its structure."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    files = sorted(place.glob("trials/*.jsonl")) + [place / "study.json"] * 4
    path = files[chance.randrange(len(files))]
    content = path.read_bytes()
    if chance.randrange(2):
        content = damaged(content, chance)
    elif path.name == "study.json":
        content = json_line(changed(json.loads(content), chance))
    else:
        lines = content.splitlines()
        for _ in range(1 + chance.randrange(2)):
            # The first and the last line say most.
            number = (0, -1, chance.randrange(len(lines)))[chance.randrange(3)]
            event = json.loads(lines[number])
            if isinstance(event, dict):
                lines[number] = json_line(changed(event, chance))
        content = b"\n".join([*lines, b""])
    path.write_bytes(content)
    return place


def answered(action):
    """Whether an action has a result; a UserError that can be shown is an answer too."""
    with Answer() as answer:
        action()
    return not answer.refused


def everything(whole, place):
    """All that the commands make of a results folder, figures and resampling apart."""
    if answered(lambda: store.read_trials(place)):
        answered(lambda: soundness.check(place))
    if answered(lambda: gather(place)):
        answered(lambda: study_bill(gather(place), replay=False))
        answered(lambda: compared_text.comparison_markdown(
            compare_studies(gather(whole), gather(place), ("a", "b"), 1.0)))


@FUZZ
@given(CHANCE)
def test_damaged_results_are_answered_in_words(planted, effects, tmp_path_factory, whole, chance):
    place = hurt(whole, tmp_path_factory.getbasetemp() / "hurt", chance)
    with effects.watched() as seen:
        answered(lambda: store.read_trials(place))
    assert {str(thing) for effect, thing in seen if effect == "open"} <= {
        str(path) for path in place.rglob("*.jsonl")}
    assert {effect for effect, _ in seen} <= {"open"}
    everything(whole, place)
    assert not planted.exists()


@pytest.mark.slow
@settings(FUZZ, max_examples=800)
@given(CHANCE)
def test_damaged_results_are_answered_in_words_often(planted, tmp_path_factory, whole, chance):
    everything(whole, hurt(whole, tmp_path_factory.getbasetemp() / "hurt", chance))
    assert not planted.exists()


@pytest.mark.slow
@settings(FUZZ, max_examples=12)
@given(CHANCE)
def test_reports_of_damaged_results_are_built_or_refused(
        planted, tmp_path_factory, whole, chance):
    place = hurt(whole, tmp_path_factory.getbasetemp() / "reported", chance)
    (place / "report.html").unlink(missing_ok=True)
    if answered(lambda: reports.build(place)):
        page = (place / "report.html").read_text(encoding="utf-8")
        assert "<script>alert" not in page
        assert "Content-Security-Policy" in page
    assert not planted.exists()


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: repr(piece[:8]))
@pytest.mark.parametrize("line", [0, 2, -1])
def test_pieces_inside_a_string_of_a_record(tmp_path, piece, line):
    """Free-form strings are decoded last, where other errors than syntax come from."""
    folder = tmp_path / "digits"
    path = fixture.write(folder, fixture.trial("sgd"), fixture.evals(
        fixture.trial("sgd"), pace=1.0, step_s=0.01, backwards=1, every=1), "miss", reason="why")
    lines = path.read_bytes().split(b"\n")[:-1]
    lines[line] = lines[line].replace(b'":', piece + b'":', 1)
    path.write_bytes(b"\n".join([*lines, b""]))
    answered(lambda: store.read_trial(path))


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 100_000])
def test_values_nested_without_end_in_free_form_places(tmp_path, value):
    trial = fixture.trial("sgd")
    header = msgspec.json.encode(Header(trial.run_id, store.now(), trial, {}))
    path = tmp_path / "x.jsonl"
    path.write_bytes(header.replace(b'"environment":{}',
                                    b'"environment":{"deep":' + value.encode() + b"}") + b"\n")
    assert b"deep" in path.read_bytes()
    assert store.read_trial(path) is None  # as if torn: it is no JSON
    store.append(path, Header(trial.run_id, store.now(), trial, {}))
    assert store.read_trial(path).trial == trial


@pytest.mark.parametrize(("field", "value"), [
    ("samples", 10**400), ("samples", 2**63), ("samples", -2**64), ("step", 1.5),
    ("train_s", "1e999"), ("validation", {"accuracy": "high"}), ("backwards", 10**30),
    ("peak_memory_bytes", 2**70), ("comm", {"train": {"all_reduce": {"calls": 10**40}}}),
])
def test_numbers_that_cannot_be_are_named_with_file_and_line(tmp_path, field, value):
    trial = fixture.trial("sgd")
    path = fixture.write(tmp_path, trial, fixture.evals(
        trial, pace=1.0, step_s=0.01, backwards=1, every=1), "miss")
    lines = path.read_bytes().splitlines()
    event = json.loads(lines[3])
    event[field] = value
    content = json.dumps(event).replace('"1e999"', "1e999").encode()
    path.write_bytes(b"\n".join([*lines[:3], content, *lines[4:], b""]))
    with pytest.raises(UserError, match=rf"{path.name}, line 4: ") as caught:
        store.read_trial(path)
    assert field in str(caught.value) or "out of range" in str(caught.value)


def test_a_header_twice_is_two_attempts_and_another_trials_header_is_told(tmp_path, whole):
    place = tmp_path / "digits"
    shutil.copytree(whole, place)
    first, second = sorted(place.glob("trials/*.jsonl"))[:2]
    content = first.read_bytes()
    first.write_bytes(content + content)
    assert store.read_trial(first).attempts == 2
    first.write_bytes(content + second.read_bytes())
    _, problems = soundness.check(place)
    assert any(first.name in problem and f"holds the trial {second.stem} again" in problem
               for problem in problems)
