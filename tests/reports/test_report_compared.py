"""Comparisons: what counts as worse, what is noise, and what the command says of it."""

import math
import shutil
import subprocess
import sys
from unittest import mock

import msgspec
import pandas as pd
import pytest
import report_fixture as fixture

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.spec import Entry
from bench_apts.reports import compared_tables
from bench_apts.reports.compared_measures import pair_trials
from bench_apts.reports.compared_studies import compare_optimizers, compare_studies
from bench_apts.reports.gather import gather

replace = msgspec.structs.replace


def made(folder, labels=("sgd",), ranks=(2,), seeds=10, trials=0, **changes):
    """Writes a study of few optimizers; without tuning every cost rests on the seeds."""
    plan = replace(fixture.study(ranks, trials, seeds),
                   entries=tuple(Entry(label, label) for label in labels), **changes)
    with mock.patch.dict(fixture.PACE, {n: fixture.PACE[n] for n in labels}, clear=True):
        return fixture.populate(folder, plan)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Ten seeds of sgd on two ranks."""
    return made(tmp_path_factory.mktemp("compared") / "before")


@pytest.fixture
def after(before, tmp_path):
    """A copy to be spoilt."""
    return shutil.copytree(before, tmp_path / "after")


def spoil(folder, change, wanted=lambda trial: True):
    """Rewrites trials with ``change`` applied to each evaluation and the end's test kept."""
    for record in store.read_trials(folder):
        if wanted(record.trial):
            path = folder / "trials" / f"{record.trial.run_id}.jsonl"
            path.unlink()
            fixture.write(folder, record.trial, [change(record, e) for e in record.evals],
                          record.end.status,
                          test=record.end.test["accuracy"] if record.end.test else None)


def twice(folder, factor):
    """Adds A/A pairs whose second trial took ``factor`` times as long."""
    for record in store.read_trials(folder):
        if record.trial.stage == "report" and not record.trial.twin:
            fixture.write(folder, replace(record.trial, twin=True),
                          [slower(factor)(record, e) for e in record.evals],
                          record.end.status, test=0.9)


def slower(factor):
    return lambda record, event: replace(event, train_s=factor * event.train_s)


def compared(before, after, factor=1.0):
    return compare_studies(gather(before), gather(after), ("before", "after"), factor)


def verdicts(found):
    return {row.measure.name: row.verdict for row in found.rows}


def test_equal_studies_are_equal(before, after):
    found = compared(before, after)
    assert set(verdicts(found).values()) == {"equal"}
    assert len(found.rows) == 12
    assert {row.measure.effect for row in found.rows
            if row.measure.kind in ("ratio", "exact")} == {1.0}
    assert compared_tables.verdict_line(found) == "no difference beyond noise"
    assert not any("too few" in note for note in found.notes)


def test_with_too_few_trials_a_difference_is_not_denied(tmp_path):
    one, two = (made(tmp_path / name, seeds=3) for name in ("one", "two"))
    for record in store.read_trials(two):
        factor = 1.5 + 0.1 * record.trial.repetition
        spoil(two, slower(factor), lambda trial, mine=record.trial: trial == mine)
    found = compared(one, two)
    assert not found.worse
    assert not found.better
    assert any("too few trials" in note for note in found.notes)
    assert compared_tables.verdict_line(found).startswith(
        "too few trials to tell: there are differences"
    )
    assert compared_tables.verdict_line(compared(one, one)) == "no difference beyond noise"


def test_a_planted_slowdown_is_found_and_nothing_else(before, after):
    spoil(after, slower(1.5))
    found = compared(before, after)
    # The expected cost counts samples on CPUs, which take longer but are no more.
    assert {row.measure.name for row in found.worse} == {"time to target"}
    assert not found.better
    assert all(row.measure.effect == pytest.approx(1.5) for row in found.worse)
    assert all(1.4 < row.measure.interval.low < 1.5 for row in found.worse)
    # One test: what is equal in every pair is not tested.
    assert [row.adjusted for row in found.worse] == pytest.approx([2.0**-9])
    assert (
        "sgd on digits at N = 2 takes 1.50 times the time to target"
        in compared_tables.verdict_line(found)
    )
    assert {row.measure.name for row in compared(after, before).better} == {
        row.measure.name for row in found.worse}


def test_a_slowdown_within_the_factor_is_tolerated(before, after):
    spoil(after, slower(1.5))
    found = compared(before, after, factor=1.6)
    assert not found.worse
    assert verdicts(found)["time to target"] == "tolerated"


def test_a_slowdown_that_equal_trials_also_show_is_noise(before, after):
    twice(after, 1.7)
    spoil(after, slower(1.5), lambda trial: not trial.twin)
    found = compared(before, after)
    # The twins' times are now 1.7/1.5 = 1.13 times the others'.
    assert verdicts(found)["time to target"] == "worse"
    spoil(after, slower(2 * 1.5 / 1.7), lambda trial: trial.twin)
    found = compared(before, after)
    assert verdicts(found)["time to target"] == "not told apart"
    # All twins are twice as slow: a drift, which no number of trials averages out.
    (times,) = [row for row in found.rows if row.measure.name == "time to target"
                and row.measure.noise > 1]
    assert times.measure.noise == pytest.approx(2.0)
    assert not found.worse


def test_times_that_scatter_around_the_same_are_noise(before, after):
    spoil(after, lambda record, e: replace(
        e, train_s=e.train_s * (1.3 if record.trial.repetition % 2 else 1 / 1.3)))
    found = compared(before, after)
    assert verdicts(found)["time to target"] == "not told apart"
    assert not found.worse


def test_times_of_several_machines_are_not_judged(before, after):
    spoil(after, slower(3.0))
    for path in (after / "trials").glob("*.jsonl"):
        path.write_text(path.read_text().replace("bench-1", "bench-2"))
    found = compared(before, after)
    assert verdicts(found)["time to target"] == "not judged"
    assert not found.worse
    assert any("several machines" in note for note in found.notes)


def test_a_single_collective_more_is_worse(before, after):
    def once_more(record, event):
        moved = event.comm["train"]["all_reduce"]
        extra = replace(moved, calls=moved.calls + 1)
        return replace(event, comm={**event.comm, "train": {"all_reduce": extra}}) if (
            event.step) else event

    spoil(after, once_more, lambda trial: trial.repetition == 0)
    found = compared(before, after)
    assert [row.measure.name for row in found.worse] == ["collectives per step"]
    # One call in ten seeds of 437 steps: three digits would have said 1.00.
    assert "issues 1.00023 times the collectives per step" in compared_tables.verdict_line(found)
    assert [r.measure.name for r in compared(after, before).better] == ["collectives per step"]
    assert not compared(before, after, factor=1.01).worse


def test_without_pairs_counts_are_compared_where_the_seed_does_not_matter(before, after):
    def reseeded(extra):
        for record in store.read_trials(after):
            seeds = replace(record.trial.seeds, data=record.trial.seeds.data + 1)
            trial = replace(record.trial, seeds=seeds)
            (after / "trials" / f"{record.trial.run_id}.jsonl").unlink()
            fixture.write(after, trial, [replace(e, backwards=e.backwards + (
                extra(trial) if e.step else 0)) for e in record.evals], record.end.status)

    reseeded(lambda trial: 1)
    found = compared(before, after)
    assert [row.measure.name for row in found.worse] == ["backward passes per step"]
    assert "10 and 10 unpaired" in {row.measure.basis for row in found.rows}
    reseeded(lambda trial: trial.repetition)
    found = compared(before, after)
    assert not [row for row in found.rows if row.measure.kind == "exact"]
    assert any("counts per step depend on the seed" in note for note in found.notes)


def test_bytes_are_exact_with_a_single_seed(tmp_path):
    folders = [made(tmp_path / name, seeds=1) for name in "ab"]

    def fatter(record, event):
        moved = event.comm["train"]["all_reduce"]
        return replace(event, comm={**event.comm, "train": {
            "all_reduce": replace(moved, ideal_bytes=4 / 3 * moved.ideal_bytes)}})

    spoil(folders[1], fatter)
    found = compared(*folders)
    assert compared_tables.verdict_line(found) == (
        "B is worse: sgd on digits at N = 2 sends 1.33 times the bytes per step")
    # What is a matter of chance cannot be told from one seed, which is said.
    assert any("too few trials to tell costs apart" in note for note in found.notes)


def test_misses_are_compared_and_nothing_is_imputed(before, after):
    spoil(after, lambda record, e: replace(e, validation={"accuracy": 0.5, "loss": 0.5}))
    found = compared(before, after)
    by_name = {row.measure.name: row for row in found.rows}
    hit, time = by_name["trials that hit"], by_name["time to target"]
    assert hit.measure.texts == ("10 of 10", "0 of 10")
    assert hit.measure.p == pytest.approx(2 / math.comb(20, 10))
    assert (hit.verdict, time.verdict) == ("worse", "worse")
    assert math.isinf(time.measure.effect)
    assert time.measure.texts[1].startswith("more than ")
    assert "∞" in compared_tables.row_entries(time)
    row = next(r for r in compared_tables.measures_table(found.rows).records()
               if r["measure"] == "time to target")
    assert (row["b"], row["effect"]) == (None, None)
    both = compared(after, after)
    assert verdicts(both)["time to target"] == "neither hit"
    assert not both.worse


def test_a_miss_of_three_seeds_is_no_proof(tmp_path):
    folders = [made(tmp_path / name, seeds=3) for name in "ab"]
    spoil(folders[1], lambda record, e: replace(e, validation={"accuracy": 0.5, "loss": 0.5}),
          lambda trial: trial.repetition > 0)
    found = compared(*folders)
    hits = next(row for row in found.rows if row.measure.name == "trials that hit")
    assert hits.measure.texts == ("3 of 3", "1 of 3")
    assert not found.worse
    assert any("too few trials" in note for note in found.notes)


def test_a_lower_test_accuracy_is_worse(before, after):
    for record in store.read_trials(after):
        (after / "trials" / f"{record.trial.run_id}.jsonl").unlink()
        fixture.write(after, record.trial, record.evals, record.end.status,
                      test=record.end.test["accuracy"] - 0.012)
    found = compared(before, after)
    assert [row.measure.name for row in found.worse] == ["test accuracy"]
    assert found.worse[0].measure.effect == pytest.approx(-0.012)
    assert "-1.20 points" in compared_tables.row_entries(found.worse[0])


def test_trials_are_pairs_where_repetition_and_seeds_agree(before, tmp_path):
    ours = store.read_trials(before)
    assert pair_trials(ours, ours[:4]).paired
    assert pair_trials(ours, ours[:4]).basis == "4 pairs"
    assert {a.trial.seeds for a in pair_trials(ours, ours[:4]).first} == {
        r.trial.seeds for r in ours[:4]}
    others = [msgspec.convert(msgspec.to_builtins(r), type(r)) for r in ours]
    for record in others:
        record.header.trial = replace(record.trial, seeds=replace(record.trial.seeds, data=1))
    unpaired = pair_trials(ours, others)
    assert (unpaired.paired, unpaired.basis) == (False, "10 and 10 unpaired")
    ours[0].end = None
    assert pair_trials(ours, ours).basis == "9 pairs"


def test_what_only_one_study_has_is_said(before, tmp_path):
    other = made(tmp_path / "other", ("sgd", "adam"), ranks=(1, 2), seeds=10)
    found = compared(before, other)
    assert {row.match.first.label for row in found.rows} == {"sgd"}
    said = next(note for note in found.notes if note.startswith("only after has"))
    # One seed of adam at N = 2 never ended in the fixture; the others make it a competitor.
    assert said == "only after has sgd on digits at N = 1 and adam on digits at N = 1 and 2"


def test_nothing_in_common_is_an_error(before, tmp_path):
    other = made(tmp_path / "other", ("adam",), ranks=(1,))
    with pytest.raises(UserError, match=r"share no optimizer.*only before has sgd.*--suite"):
        compared(before, other)
    suite = replace(fixture.SUITE, batch_size=32)
    changed = made(tmp_path / "changed", suites=(suite,))
    with pytest.raises(UserError, match="digits is not the same suite in both, they differ in "
                                        "batch_size"):
        compared(before, changed)


def test_other_data_do_not_compare(before, after):
    for path in (after / "trials").glob("*.jsonl"):
        path.write_text(path.read_text().replace("d" * 64, "e" * 64))
    with pytest.raises(UserError, match="its data are not the same"):
        compared(before, after)


def test_two_optimizers_of_a_study(tmp_path):
    folder = made(tmp_path / "study", ("sgd", "apts"), trials=10)
    found = compare_optimizers(gather(folder), "sgd", "apts", 1.0)
    rows = {row.measure.name: row for row in found.rows}
    assert rows["wire bytes to target"].verdict == "better"
    assert rows["wire bytes to target"].measure.basis == "10 pairs"
    # One was tuned, the other was not: those trials have no partners.
    assert rows["expected cost, with tuning"].measure.basis == "10 and 10 unpaired"
    assert "wire bytes per step" not in rows
    assert any("no evaluation is at equal steps and samples" in note for note in found.notes)
    assert compare_optimizers(gather(folder), "sgd", "sgd", 1.0).worse == []
    with pytest.raises(UserError, match=r"unknown optimizer of this study 'sdg'; did you mean"):
        compare_optimizers(gather(folder), "sdg", "apts", 1.0)


def test_the_command_tells_by_its_exit_code(cli, before, after, tmp_path):
    done = cli("compare", before, after)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "no difference beyond noise"
    spoil(after, slower(1.5))
    numbers = tmp_path / "new" / "numbers.csv"
    done = cli("compare", before, after, "--csv", numbers)
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines()[-1].startswith("B is worse: sgd on digits at N = 2")
    table = pd.read_csv(numbers).set_index("measure")
    assert table.loc["time to target", "effect"] == pytest.approx(1.5)
    assert table.loc["time to target", "verdict"] == "worse"
    assert cli("compare", before, after, "--factor", "2").code == 0
    assert cli("compare", before, "sgd", "sgd").code == 0


def test_labels_in_brackets_and_markup_stay_as_they_are(cli, tmp_path):
    label = "sgd[lr=0.1,momentum=0]"
    folder = tmp_path / "study"
    made(folder)
    for path in [folder / "study.json", *(folder / "trials").glob("*.jsonl")]:
        path.write_text(path.read_text().replace('"label":"sgd"', f'"label":"{label}"').replace(
            '"label": "sgd"', f'"label": "{label}"'))
    done = cli("compare", folder, label, label)
    assert done.code == 0
    assert f"{label} on digits at N = 2" in done.out
    done = cli("compare", folder, label, label, "--markdown")
    assert done.out.startswith("**no difference beyond noise**\n")
    assert r"sgd\[lr=0.1,momentum=0\] on digits at N = 2:" in done.out
    rows = [line for line in done.out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 12
    assert {line.count("|") for line in rows} == {8}
    assert rows[0] == "| measure | A | B | B to A | 95 % interval | trials | verdict |"


@pytest.mark.parametrize(("arguments", "said"), [
    (("{before}",), "compare takes two results folders, or one and two"),
    (("apts", "adam"), "there is no folder apts"),
    (("{before}", "{empty}"), "is not a results folder: study.json"),
    (("{before}", "sgd", "adm"), "unknown optimizer of this study 'adm'"),
    (("{before}", "{before}", "--factor", "nan"), "--factor"),
    (("{before}", "{before}", "--factor", "inf"), "--factor inf tolerates everything"),
    (("{before}", "{before}", "--factor", "0.5"), "--factor"),
])
def test_mistakes_end_in_one_line(cli, before, tmp_path, arguments, said):
    done = cli("compare", *(a.format(before=before, empty=tmp_path) for a in arguments))
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_torch_is_not_imported(before, environment):
    """The command answers quickly, also where torch would take seconds."""
    code = ("import sys; from bench_apts.cli.commands import app\n"
            f"app(['compare', {str(before)!r}, 'sgd', 'sgd'], standalone_mode=False)\n"
            "print({'torch', 'deepspeed', 'torchvision'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, check=True, timeout=200)
    assert done.stdout.splitlines()[-2:] == ["no difference beyond noise", "set()"]
