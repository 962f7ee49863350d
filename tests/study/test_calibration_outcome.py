"""From records to a target: which trials count, which optimizer wins, what is refused."""

import datetime as dt
import tomllib
from collections import Counter

import pytest

from bench_apts.core.errors import UserError
from bench_apts.core.records import End, Eval, Header, TrialRecord
from bench_apts.core.spec import (
    Budget,
    Data,
    Entry,
    Evaluation,
    Model,
    Provenance,
    Seeds,
    Study,
    Suite,
    Target,
    Trial,
)
from bench_apts.study import target_calibration
from bench_apts.study.target_calibration import (
    Candidate,
    choose,
    decide_target,
    final,
    target_bound,
)

CARD = {"versions": {"torch": "2.15.0+cpu"}, "gpus": []}


def suite(direction="max", metric="accuracy"):
    return target_calibration.neutral(Suite(
        "toy", "", Data("toy", 10), Model("mlp"), 8, Budget(1_000, 60.0), Evaluation(100),
        Target(metric, direction, 0.9, Provenance("none", 0, 0), version=4)))


def record(last, status="miss", samples=1_000, repetition=0, problem=None):
    problem = problem or suite()
    trial = Trial("sgd", "sgd", {"lr": 0.1}, False, 8, problem, 1, "tune", repetition,
                  Seeds(1, 2), "cpu", "d", "p", "s")
    evals = [Eval(0, count, 0.0, 0.0, 0.0, 0.0, 0, 0, 1, None, {problem.target.metric: value}, {})
             for count, value in ((0, 0.99), (samples, last))]
    return TrialRecord(Header("id", "", trial, {}), None, evals, End(status, "", 0.0), "x.jsonl")


def candidate(label, finals, direction="max", seeds=5, tuned=None, statuses=None,
              configuration=True):
    return Candidate(label, Counter(tuned or {"to the end": 20}), 0.5,
                     {"lr": 0.1} if configuration else None,
                     Counter(statuses or {"to the end": len(finals)}), tuple(finals),
                     target_bound(finals, direction) if len(finals) == seeds else None, (0.1,))


def study(problem, trials=20, seeds=5):
    return Study((problem,), (Entry("sgd", "sgd", {}), Entry("adam", "adam", {})), (1,), trials,
                 seeds, 7, "cpu", False)


def test_only_the_end_of_the_budget_counts():
    assert final(record(0.7)) == 0.7
    assert final(record(0.7, "hit")) == 0.7
    assert final(record(0.7, "hit", samples=900)) is None  # its seconds were over
    assert final(record(0.7, "timeout", samples=900)) is None
    assert final(record(0.7, "diverged")) is None
    assert final(record(float("nan"))) is None


def test_the_best_final_value_is_chosen_whatever_was_better_before():
    trials = [record(0.6, repetition=1), record(0.8, repetition=3), record(0.8, repetition=2),
              record(0.9, "diverged", repetition=0)]
    assert choose(trials).trial.repetition == 2
    down = suite("min", "loss")
    trials = [record(value, problem=down, repetition=k) for k, value in enumerate((0.6, 0.2, 0.8))]
    assert choose(trials).trial.repetition == 1
    assert choose([record(0.9, "diverged")]) is None
    assert choose([]) is None


def test_the_better_median_wins_in_the_metrics_direction():
    # sgd: median 0.94, std 0.0071; adam: median 0.95, std 0.0158, 0.95 - 0.0158 goes down to 0.93
    both = (candidate("sgd", [0.93, 0.935, 0.94, 0.945, 0.948]),
            candidate("adam", [0.93, 0.94, 0.95, 0.96, 0.97]))
    found = decide_target(suite(), both)
    assert (found.winner.label, found.target.value) == ("adam", 0.93)
    # as a loss the lower median: 0.94 + 0.0071, in steps of 0.005, goes up to 0.95
    both = (candidate("sgd", [0.93, 0.935, 0.94, 0.945, 0.948], "min"),
            candidate("adam", [0.93, 0.94, 0.95, 0.96, 0.97], "min"))
    found = decide_target(suite("min", "loss"), both)
    assert (found.winner.label, found.target.value) == ("sgd", 0.95)
    assert found.trivial  # the untrained loss of 0.1 was lower
    for direction in ("max", "min"):  # of equals the first
        equal = [candidate(label, [0.93, 0.94, 0.95, 0.96, 0.97], direction)
                 for label in ("adam", "sgd")]
        assert decide_target(suite(direction, "loss"), equal).winner.label == "adam"


def test_an_optimizer_without_all_reruns_sets_no_target():
    found = decide_target(suite(), (candidate("sgd", [0.93, 0.94, 0.95, 0.96, 0.97]),
                             candidate("adam", [0.99] * 4,
                                       statuses={"to the end": 4, "diverged": 1})))
    assert found.winner.label == "sgd"
    origin = target_calibration.provenance(found, study(suite()), CARD, dt.date(2026, 11, 30))
    assert origin.note.startswith("provisional, without adam: ")
    assert "adam: not all reruns ran to the end" in origin.note


@pytest.mark.parametrize(("tuned", "remedy"), [
    ({"diverged": 20}, "bench-apts test"),
    ({"out of time": 19, "diverged": 1}, "budget.seconds"),
    ({"error": 2}, "bench-apts report"),
])
def test_no_optimizer_at_all_is_refused_with_what_happened(tuned, remedy):
    with pytest.raises(UserError, match=remedy) as caught:
        decide_target(suite(), [candidate("sgd", [], tuned=tuned, configuration=False)])
    status, number = next(iter(tuned.items()))
    assert f"{number} {status}" in str(caught.value)


def test_a_target_that_is_not_above_0_is_refused():
    with pytest.raises(UserError, match="above 0"):
        decide_target(suite(), [candidate("sgd", [0.0, 0.0, 0.001, 0.9, 0.9])])


@pytest.mark.parametrize(("trials", "seeds", "begins"), [
    (20, 5, "median final validation accuracy of adam"),
    (8, 5, "provisional, 8 trials instead of 20: median"),
    (1, 3, "provisional, 1 trial instead of 20, 3 seeds instead of 5: median"),
])
def test_provenance_says_how_the_target_was_made(trials, seeds, begins):
    both = (candidate("sgd", [0.7] * seeds, seeds=seeds),
            candidate("adam", [0.94, 0.95, 0.96, 0.95, 0.95][:seeds], seeds=seeds))
    origin = target_calibration.provenance(
        decide_target(suite(), both), study(suite(), trials, seeds), CARD, dt.date(2026, 11, 30)
    )
    assert (origin.optimizer, origin.trials, origin.seeds) == ("adam", trials, seeds)
    assert origin.note.startswith(begins)
    for part in ("(95.00 %)", "rounded down", "sgd: 70.00 %", f"by {trials} trial", "N = 1",
                 "base seed 7", "torch 2.15.0 on a CPU", "November 2026"):
        assert part in origin.note


def test_the_trials_do_not_depend_on_the_target_that_was_there():
    assert suite().target == target_calibration.neutral(suite()).target
    assert suite().target.version == 1


TEXT = """# a comment
name = "x"  # another
[target]
metric = "accuracy"
direction = "max"  # up
value = 0.5  # by hand
{rest}
"""


@pytest.mark.parametrize("rest", [
    "", "[target.provenance]\noptimizer = 'none'  # nobody\ntrials = 0\nseeds = 0",
    "provenance = { optimizer = 'none', trials = 0, seeds = 0 }",
])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_keeps_all_but_its_target(tmp_path, rest, newline):
    path = tmp_path / "x.toml"
    path.write_bytes(TEXT.format(rest=rest).replace("\n", newline).encode())
    target = Target("accuracy", "max", 0.935, Provenance("adam", 20, 5, 'says "so", 3 µs'))
    target_calibration.write_target(path, target)
    text = path.read_bytes().decode()
    read = tomllib.loads(text)
    assert read["name"] == "x"
    assert read["target"] == {
        "metric": "accuracy", "direction": "max", "value": 0.935, "version": 2,
        "provenance": {"optimizer": "adam", "trials": 20, "seeds": 5, "note": 'says "so", 3 µs'}}
    for comment in ("# a comment", "# another", "# up", "# nobody"[:9 * ("nobody" in rest)]):
        assert comment in text
    target_calibration.write_target(path, target)
    assert path.read_bytes().decode() == text
    del read["target"]["version"]
    assert tomllib.loads(target_calibration.target_fragment(target))["target"] == read["target"]


@pytest.mark.parametrize("rest", ["", "[variant.wide.target]\nvalue = 0.7  # wide"])
def test_a_variants_target_is_written_into_its_table(tmp_path, rest):
    path = tmp_path / "x.toml"
    path.write_text("[target]\nvalue = 0.5\n\n[variant.wide]\nbatch_size = 9\n" + rest)
    target = Target("accuracy", "max", 0.935, Provenance("adam", 20, 5))
    target_calibration.write_target(path, target, "wide")
    read = tomllib.loads(path.read_text())
    assert read["target"] == {"value": 0.5}
    assert read["variant"]["wide"]["batch_size"] == 9
    assert read["variant"]["wide"]["target"]["value"] == 0.935
    assert read["variant"]["wide"]["target"]["provenance"]["optimizer"] == "adam"
    assert ("# wide" in path.read_text()) == bool(rest)
    shown = tomllib.loads(target_calibration.target_fragment(target, "wide"))
    assert shown["variant"]["wide"]["target"]["value"] == 0.935


@pytest.mark.parametrize("content", [None, "[target", "name = 3"])
def test_a_file_that_is_no_suite_any_more_is_refused(tmp_path, content):
    path = tmp_path / "x.toml"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"x\.toml"):
        target_calibration.write_target(path, Target("loss", "min", 1.0, Provenance("sgd", 1, 1)))
