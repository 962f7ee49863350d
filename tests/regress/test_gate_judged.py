"""The gate's course and words, with trainings that are made up."""

import re

import msgspec
import pytest

from bench_apts.core.errors import UserError
from bench_apts.core.records import End, Eval, Header, Start, Traffic, TrialRecord
from bench_apts.regress import gate_comparison, gate_findings, gate_summary, gate_trainings
from bench_apts.regress.gate_findings import GateFinding, GateResult
from bench_apts.regress.gate_trainings import CodeTree, GateCell, GateRequest, TrainingFailed

BATCH, STEPS = 64, 10


@pytest.fixture
def trained(make_trial):
    """Makes the record of a training of ten steps that evaluates after five and ten."""

    def make(label="sgd", ranks=2, seconds=1.0, calls=1, weights="w", accuracy=(0.96, 0.97),
             forwards=1, status="hit", initial="i", meter="c10d pre-hook"):
        trial = make_trial(label, ranks=ranks)
        evals = [Eval(step, BATCH * step, 1.0, seconds * step, 99.0, seconds * step / 2,
                      forwards * step, step, 0, 0.5, {"accuracy": value, "loss": 1 - value},
                      {"train": {"all_reduce": Traffic(calls * step, 8 * step, 8.0 * step)}})
                 for step, value in ((5, accuracy[0]), (STEPS, accuracy[1]))]
        start = Start(10, initial, "", 1197, 300, meter, "gloo")
        end = End(status, "", 99.0, final_weights_sha256=weights, reason="boom")
        return TrialRecord(Header(trial.run_id, "", trial, {}), start, evals, end, "")

    return make


@pytest.fixture
def gate(monkeypatch, tmp_path):
    """Judges trainings that a function of tree, number of the run and seed makes up."""

    def run(make, optimizers=("sgd",), ranks=(2,), pairs=6, tolerated=0.005):
        runs = []

        def train(tree, asked, out, *, seeds=1, base_seed=0):
            runs.append((tree.name, base_seed, asked.ranks, asked.optimizers))
            return make(tree.name, len(runs), base_seed, asked)

        monkeypatch.setattr(gate_trainings, "train", train)
        monkeypatch.setattr("bench_apts.core.environment.cores", lambda: 2)
        base, head = (CodeTree(name, f"{name} code", tmp_path) for name in ("base", "head"))
        found = gate_comparison.compare_interleaved(
            base,
            head,
            GateRequest(("digits",), ranks, optimizers),
            tmp_path,
            pairs=pairs,
            factor=1.1,
            base_seed=40,
            say=lambda text: None,
            tolerated=tolerated,
        )
        return found, runs

    return run


def jitter(number):
    """A per cent up and down, differently in every run."""
    return 1 + 0.01 * ((number * 7919) % 13 - 6) / 6


def test_trees_take_turns_with_equal_seeds(gate, trained):
    found, runs = gate(lambda tree, number, seed, asked: [trained(seconds=jitter(number))])
    assert [name[0] for name, *_ in runs] == list("bhhb" "hbbh" "bhhb")
    assert [seed for _, seed, *_ in runs] == [40] * 4 + [41] * 4 + [42] * 4
    assert found.code == 0
    (finding,) = found.findings
    assert finding.course == "bit-identical"
    assert not finding.grown
    assert [(t.clock, t.slowdown.pairs, t.slowdown.verdict) for t in finding.timings] == [
        ("training time", 6, "alike"), ("CPU time", 6, "alike")]
    assert gate_summary.gate_verdict(found) == "no regression"


def test_more_collectives_fail_at_once(gate, trained):
    found, runs = gate(lambda tree, *_: [trained(calls=2 if tree == "head" else 1)])
    assert found.code == 1
    assert len(runs) == 4
    assert gate_summary.gate_verdict(found) == (
        "regression: sgd on digits at N = 2 needs 2 collectives per global batch instead of 1"
    )
    assert "times were not judged" in gate_summary.gate_markdown(found)


def test_fewer_collectives_are_told(gate, trained):
    found, _ = gate(lambda tree, number, *_: [
        trained(seconds=jitter(number), calls=1 if tree == "head" else 2)])
    assert found.code == 0
    assert gate_summary.gate_verdict(found) == (
        "no regression; better: sgd on digits at N = 2 needs fewer collectives"
    )


def test_only_a_slower_cell_is_measured_on(gate, trained):
    def make(tree, number, seed, asked):
        return [trained(label, n, jitter(number + n) * (
            1.3 if (tree, label, n) == ("head", "apts", 1) else 1.0))
            for label in asked.optimizers for n in asked.ranks]

    found, runs = gate(make, ("sgd", "apts"), (1, 2))
    assert found.code == 1
    assert len(runs) == 24
    assert {what for *_, what in [(r[2], r[3]) for r in runs[:12]]} == {("sgd", "apts")}
    assert {(r[2], r[3]) for r in runs[12:]} == {((1,), ("apts",))}
    (finding,) = [f for f in found.findings if f.regressed]
    assert finding.cell == GateCell("digits", "apts", 1)
    assert [t.clock for t in finding.slower] == ["training time", "CPU time"]
    assert re.match(r"regression: apts on digits at N = 1 takes 1\.\d\d times the training time",
                    gate_summary.gate_verdict(found))


def test_more_ranks_than_cores_are_judged_by_cpu_time(gate, trained):
    found, _ = gate(lambda tree, number, *_: [trained(ranks=4, seconds=jitter(number))],
                    ranks=(4,))
    assert [t.clock for t in found.findings[0].timings] == ["CPU time"]
    assert "2 cores are fewer than the ranks" in gate_summary.gate_markdown(found)


def test_a_failing_head_is_a_regression_a_failing_base_is_not(gate, trained):
    def failing(name):
        return lambda tree, number, *_: [
            trained(seconds=jitter(number)),
            trained("adam", status="error" if tree == name else "hit", seconds=jitter(number))]

    found, runs = gate(failing("head"), ("sgd", "adam"))
    assert (found.code, len(runs)) == (1, 4)
    assert (
        gate_summary.gate_verdict(found)
        == "regression: adam on digits at N = 2 fails (error: boom)"
    )
    found, _ = gate(failing("base"), ("sgd", "adam"))
    assert found.code == 2
    assert gate_summary.gate_verdict(found) == (
        "cannot tell: adam on digits at N = 2: base failed (error: boom)"
    )


def test_a_training_that_diverges_at_once_is_no_number(gate, trained):
    def make(tree, number, *_):
        record = trained(status="diverged" if tree == "head" else "hit")
        if tree == "head":
            record.evals.clear()
        return [record]

    found, _ = gate(make)
    assert found.code == 1
    assert "fails (diverged before any step was evaluated)" in gate_summary.gate_verdict(found)


@pytest.mark.parametrize(("base", "head", "code"), [
    ("miss", "diverged", 1), ("diverged", "diverged", 0), ("diverged", "miss", 0)])
def test_to_diverge_is_a_failure_where_base_does_not(gate, trained, base, head, code):
    """Also where neither reaches the target, so that no count tells it."""
    statuses = {"base": base, "head": head}
    found, runs = gate(lambda tree, number, *_: [trained(
        accuracy=(0.5, 0.6), seconds=jitter(number), status=statuses[tree])])
    assert (found.code, len(runs)) == (code, 4 if code else 12)
    assert (
        "sgd on digits at N = 2 fails (diverged: boom)" in gate_summary.gate_verdict(found)
    ) == code


def test_nothing_is_trained_on_where_nothing_can_be_told(gate, trained):
    found, runs = gate(lambda tree, *_: [trained(status="oom" if tree == "base" else "hit")])
    assert (found.code, len(runs)) == (2, 4)


def test_traffic_that_head_no_longer_counts_is_no_all_clear(gate, trained):
    found, _ = gate(lambda tree, number, *_: [trained(
        seconds=jitter(number), meter="none (lost)" if tree == "head" else "c10d pre-hook")])
    assert found.code == 2
    assert gate_summary.gate_verdict(found) == (
        "cannot tell: sgd on digits at N = 2: head does not count "
        "its traffic, as base does (none (lost))"
    )
    found, _ = gate(lambda tree, number, *_: [trained(seconds=jitter(number), meter="none (old)")])
    assert found.code == 0
    assert ("nothing counts the traffic of sgd on digits at N = 2, in base as in head"
            ) in gate_summary.gate_markdown(found)
    assert "wire bytes" not in {count.name for count in found.findings[0].counts}


def test_a_command_that_fails(gate):
    def failing(name):
        def make(tree, *_):
            if tree == name:
                raise TrainingFailed("unknown option")
            return []
        return make

    found, _ = gate(failing("head"))
    assert found.code == 1
    assert gate_summary.gate_verdict(found) == "regression: head does not run: unknown option"
    with pytest.raises(UserError, match="base base code does not run: unknown option"):
        gate(failing("base"))


def test_what_is_suspected_and_not_shown_is_no_all_clear(gate, trained):
    def some_seeds_are_slow(tree, number, seed, asked):
        return [trained(seconds=jitter(number) * (
            2.0 if tree == "head" and seed % 3 == 0 else 1.0))]

    found, runs = gate(some_seeds_are_slow)
    assert len(runs) == 48
    assert found.code == 2
    assert re.match(r"cannot tell: sgd on digits at N = 2 takes 1\.\d\d times the training time, "
                    "which 24 pairs do not show", gate_summary.gate_verdict(found))
    assert "leaves room for a factor of" in gate_summary.gate_markdown(found)


def test_what_equal_code_scatters_as_much_is_no_suspicion(gate, trained):
    slow = (1.0, 1.6, 1.1, 2.0, 0.8, 1.4, 1.0)
    found, _ = gate(lambda tree, number, *_: [trained(seconds=slow[number % 7])])
    assert found.code == 0
    (training, _) = found.findings[0].timings
    assert training.slowdown.interval.high > 1.1
    assert training.slowdown.noise > training.slowdown.ratio


@pytest.mark.parametrize(("base", "head", "worse"), [
    ((100, 120, 140), (150, 160, 170), True),   # beyond all seeds, by more than the factor
    ((100, 120, 140), (135, 160, 170), False),  # within what seeds scatter
    ((100, 101, 102), (103, 104, 105), False),  # beyond all seeds, but tolerated
    ((100, 120), (150, 160), False),            # too few seeds
    ((100, 120, 140), (float("inf"),) * 3, True),
])
def test_what_depends_on_the_seed_is_judged_by_seeds(base, head, worse):
    count = gate_findings.CountChange(
        "samples to target", tuple(map(float, base)), tuple(map(float, head)), exact=False
    )
    assert count.worse(1.1) is worse


@pytest.mark.parametrize(("base", "head", "open_"), [
    ((100,), (150,), True), ((100, 120), (150, 160), True), ((100,), (float("inf"),), True),
    ((100,), (105,), False), ((float("inf"),), (100,), False), ((100,) * 3, (150,) * 3, False),
])
def test_growth_of_too_few_seeds_is_open(base, head, open_):
    count = gate_findings.CountChange(
        "samples to target", tuple(map(float, base)), tuple(map(float, head)), exact=False
    )
    assert count.open(1.1) is open_
    finding = GateFinding(GateCell("digits", "sgd", 2), 1.1, "another course", [count])
    judged = GateResult("a study", "head", (finding,), ())
    if open_:
        assert judged.code == 2
        assert gate_summary.gate_verdict(judged).startswith("cannot tell: sgd on digits at N = 2 ")
        assert "it takes 3 seeds to tell" in gate_summary.gate_verdict(judged)
        assert "| 1 of 1 larger |" in gate_summary.gate_markdown(judged)


def test_courses(trained):
    def course(one, two):
        return gate_findings.gate_curve([(one, two)])

    assert course(trained(), trained()) == "bit-identical"
    assert course(trained(), trained(weights="v")) == "another course"
    assert course(trained(weights=None), trained(weights=None)) == "equal"
    assert course(trained(weights=None),
                  trained(weights=None, accuracy=(0.9, 0.97))) == "another course"
    assert course(trained(), trained(weights=None)) == "another course"


def test_another_course_keeps_counts_that_no_seed_changes_exact(trained):
    pairs = [(trained(weights=f"w{seed}"), trained(weights=f"v{seed}", forwards=2))
             for seed in range(3)]
    by_name = {count.name: count for count in gate_findings.counts(pairs)}
    assert by_name["forward passes"].exact
    assert by_name["forward passes"].worse(1.1)
    assert not by_name["wire bytes"].worse(1.1)
    assert not by_name["samples to target"].exact
    # Of a single seed nobody knows whether a count depends on it.
    assert not any(count.worse(1.1) for count in gate_findings.counts(pairs[:1]))


def test_a_missed_target_is_told_so(gate, trained):
    found, _ = gate(lambda tree, *_: [trained(accuracy=(0.96, 0.97) if tree == "base"
                                              else (0.5, 0.6))])
    assert found.code == 1
    assert ("sgd on digits at N = 2 misses the target, which base reaches (320 samples to target)"
            ) in gate_summary.gate_markdown(found)


def test_the_summary_keeps_to_sixty_lines():
    grown = gate_findings.CountChange("collectives", (1.0,), (2.0,), exact=True)
    findings = [GateFinding(GateCell("a|b", f"o{i}", 2), 1.1, counts=[grown] if i > 100 else [])
                for i in range(200)]
    text = gate_summary.gate_markdown(GateResult("base", "head", tuple(findings), ("a note",)))
    lines = text.splitlines()
    assert len(lines) <= 60
    assert "a\\|b" in text
    assert "more are not shown" in text
    assert sum(line.endswith("| worse |") for line in lines) > 20
    assert lines[0].startswith("**regression: o101 on a\\|b")


@pytest.mark.parametrize(("loss", "tolerated", "code"), [
    (0.02, 0.005, 1), (0.02, 0.03, 0), (0.0, 0.0, 0), (-0.02, 0.0, 0)],
    ids=["lost", "tolerated", "scatter", "gained"])
def test_quality_is_judged_by_pairs_where_courses_differ(gate, trained, loss, tolerated, code):
    def seeded(tree, seed):
        scatter = 0.03 * ((seed * 5) % 7) / 7 + 0.002 * ((seed * 3 + len(tree)) % 5 - 2)
        record = trained(weights=tree, accuracy=(
            0.5, 0.9 + scatter - loss * (tree == "head")))
        trial = msgspec.structs.replace(record.header.trial, repetition=seed)
        return msgspec.structs.replace(
            record, header=msgspec.structs.replace(record.header, trial=trial))

    def make(tree, number, seed, asked):
        return ([seeded(tree, index) for index in range(8)] if number in (5, 6)
                else [trained(weights=tree, seconds=jitter(number))])

    found, runs = gate(make, tolerated=tolerated)
    assert found.code == code, gate_summary.gate_verdict(found)
    assert [name for name, *_ in runs[4:6]] == ["base", "head"]
    (finding,) = found.findings
    assert len(finding.quality.base) == 8
    text = gate_summary.gate_markdown(found)
    assert "of 8 pairs of equal seeds" in text
    assert ("ends at a validation accuracy of 0." in text) == (code == 1)


def test_quality_by_hand():
    change = gate_findings.QualityChange(
        "loss", "min", (1.0, 2.0, 3.0, 4.0, 5.0), (1.1, 2.1, 3.1, 4.1, 5.2))
    assert change.loss == pytest.approx(0.12)
    assert change.worse(0.03)
    assert not change.worse(0.05), "0.12 of 3 is four per cent"
    few = gate_findings.QualityChange("loss", "min", (1.0, 2.0), (1.1, 2.1))
    assert not few.worse(0.0), "two pairs never show a difference"
