"""The tuning bill: tables against numbers worked out by hand, misses, one N, no tuning."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import report_fixture as fixture
from report_fixture import FREE, HIT, MISS, POOL, Folder
from report_fixture import SECONDS_SUITE as SUITE

from bench_apts.core.errors import UserError
from bench_apts.reports.bills_by_trainings import payoff_sentence
from bench_apts.reports.gather import gather
from bench_apts.reports.tuning_bill import study_bill
from bench_apts.reports.tuning_pools import CostView
from bench_apts.stats.amortisation import BreakEven
from bench_apts.stats.expected_cost import restart_quantile
from bench_apts.stats.intervals import Interval
from bench_apts.stats.learning_curves import curve
from bench_apts.stats.tuning_replay import replay_all

SEEDS = 12
"""Fresh seeds that leave little doubt where all cost the same."""


@pytest.fixture
def known(tmp_path):
    """The known pool of adam, frozen at its first draw, against apts at 4 seconds."""
    folder = Folder(tmp_path / "known")
    folder.add("adam", "tune", POOL).add("adam", "report", (2, 2), like=0)
    return folder.add("apts", "report", FREE)


def table(found, name, suite=0):
    (match,) = [table for table in found.tables[suite][1] if table.name == name]
    return match


def row(found, name, label, ranks=None):
    """Numbers of an optimizer's row and what is shown of it, by column and by title."""
    chosen = table(found, name)
    (match,) = [(numbers, dict(zip((title for title, _ in chosen.head), values, strict=True)))
                for numbers, values in zip(chosen.records(), chosen.rows, strict=True)
                if numbers["optimizer"] == label and ranks in (None, numbers.get("ranks"))]
    return match


def test_expected_cost_of_the_known_pool(known):
    numbers, shown = row(known.bill(), "bill-search", "adam")
    assert (numbers["hits"], numbers["trials"], numbers["success"]) == (2, 4, 0.5)
    assert shown["Hit"].text == "2 of 4"
    # 2 + 3 + 5 + 10 seconds for two hits; twice as many on the wall, thrice as many passes.
    assert numbers["ert_core_seconds"] == 10.0
    assert numbers["ert_wall_s"] == 20.0
    assert numbers["ert_gradient_evaluations"] == 30.0
    assert numbers["ert_flops"] == 1e7
    assert numbers["ert_wire_bytes"] == 0.0
    assert numbers["ert_core_seconds_low"] < 10 < numbers["ert_core_seconds_high"]
    assert shown["Expected cost (core-seconds)"].text == "10.0\u202fcore\u2011s"


def test_scatter_and_best_of_k(known):
    numbers, shown = row(known.bill(), "bill-spread", "adam")
    assert numbers["sequential_core_seconds"] == 7.5
    assert numbers["restart_q90_core_seconds"] == restart_quantile(
        [2, 3, 5, 10], [2, 3, math.inf, math.inf])
    assert numbers["best_of_2_success"] == pytest.approx(5 / 6)
    assert (shown["Best of 2"].text, numbers["best_of_2_core_seconds"]) == ("∞", None)
    assert shown["Best of 4"].text == "–"  # more than half of the trials
    assert numbers["half"] == 2
    # Of eight hits, 28 pairs: i is the least of 8 − i of them.
    folder = Folder(known.path.parent / "eight", labels=("adam",))
    numbers, _ = row(folder.add("adam", "tune", range(1, 9)).bill(), "bill-spread", "adam")
    assert numbers["best_of_2_core_seconds"] == pytest.approx(
        sum(i * (8 - i) for i in range(1, 9)) / 28)
    assert numbers["best_of_4_core_seconds"] == numbers["best_of_half_core_seconds"]
    assert numbers["half"] == 4


def test_bills_of_r_trainings(known):
    seeds(known, "adam", 2)
    numbers, shown = row(known.bill(), "bill-trainings", "adam")
    # All four tuning trials, and R − 1 times the 2 seconds of its fresh seeds.
    assert numbers["bill_1_core_seconds"] == 20
    assert shown["R = 1"].detail == "as spent"
    assert numbers["bill_10_core_seconds"] == 20 + 9 * 2
    assert (numbers["bill_10_core_seconds_low"] < 38 < numbers["bill_10_core_seconds_high"]
            < 4 * numbers["bill_10_core_seconds_low"])
    seeds(known, "apts", 4)
    free, _ = row(known.bill(), "bill-trainings", "apts")
    assert [free[f"bill_{count}_core_seconds"] for count in (1, 10, 100)] == [4, 40, 400]


def test_a_bill_whose_interval_is_wide_is_no_number(known):
    known.add("adam", "report", (2, 2, -9), like=0)
    numbers, shown = row(known.bill(), "bill-trainings", "adam")
    assert numbers["bill_1_core_seconds"] == 20
    assert numbers["bill_100_core_seconds"] is None
    low, high = (numbers[f"bill_100_core_seconds_{end}"] for end in ("low", "high"))
    assert high > 4 * low
    assert " to " in shown["R = 100"].text


def seeds(folder, label, seconds, count=SEEDS):
    return folder.add(label, "report", (seconds,) * count, like=0)


def test_break_even_by_hand(tmp_path):
    folder = seeds(Folder(tmp_path / "study").add("adam", "tune", POOL), "adam", 2)
    numbers, shown = row(seeds(folder, "apts", 4).bill(), "bill-break-even", "adam")
    # 20 + 2 (R − 1) ≤ 4 R from 9 on.
    assert (numbers["against"], numbers["break_even"]) == ("apts", 9)
    low, high = numbers["break_even_low"], numbers["break_even_high"]
    assert low <= 9 <= high <= 4 * low
    assert shown["Verdict"].text == (
        f"tuning adam pays from 9 trainings on (95 % interval: {low:.0f} to {high:.0f} trainings)")
    assert shown["R*"].text == f"9 ({low:.0f} to {high:.0f} trainings)"


def test_two_seeds_tell_no_break_even(known):
    found = known.bill()
    numbers, shown = row(found, "bill-break-even", "adam")
    assert numbers["break_even"] is None
    assert numbers["break_even_low"] <= 9 <= numbers["break_even_high"]
    assert "break-even for tuning adam" in shown["Verdict"].text
    assert "95 % interval: " in shown["Verdict"].text
    assert "training" in shown["R*"].text


def test_the_referees_example_on_the_terminal(tmp_path):
    """A lucky tuning trial stands for nothing; its fresh seeds cost 11 instead of 4."""
    folder = Folder(tmp_path / "study").add("adam", "tune", (4, 9, 15, -15, -15, -15, -15, -15))
    folder.add("adam", "report", (10, 11, 12, 11) * 2, like=0)
    found = folder.add("apts", "report", (10, 9, 11, 10) * 2).bill()
    mine, theirs = (row(found, "bill-trainings", label)[0]["bill_10_core_seconds"]
                    for label in ("adam", "apts"))
    assert (mine, theirs) == (103 + 9 * 11, 100)
    numbers, shown = row(found, "bill-break-even", "adam")
    assert (numbers["break_even"], numbers["break_even_high"]) == (None, math.inf)
    assert "trainings on)" in shown["Verdict"].text


def test_without_fresh_seeds_there_is_no_bill(tmp_path):
    folder = Folder(tmp_path / "study").add("adam", "tune", POOL).add("apts", "report", FREE)
    found = folder.bill()
    numbers, shown = row(found, "bill-trainings", "adam")
    assert numbers["bill_1_core_seconds"] == 20
    assert (numbers["bill_10_core_seconds"], shown["R = 10"].text) == (None, "not rerun")
    assert row(found, "bill-break-even", "adam")[0]["verdict"] == "not known"
    assert any(note.startswith("no bill of several trainings and no break-even of adam")
               for note in found.notes)


def test_seeds_that_all_miss_bound_the_bill_from_below(tmp_path):
    lost = Folder(tmp_path / "lost").add("adam", "tune", POOL).add("apts", "report", FREE)
    found = lost.add("adam", "report", (-3, -5), like=0).bill()
    _, shown = row(found, "bill-trainings", "adam")
    assert shown["R = 1"].text == "20.0\u202fcore\u2011s"
    assert shown["R = 10"].text.endswith("or more")
    assert "training on)" in row(found, "bill-break-even", "adam")[1]["Verdict"].text


def test_misses_are_never_numbers(tmp_path):
    folder = Folder(tmp_path / "study", ranks=(1, 2)).add("apts", "report", FREE)
    folder.add("apts", "report", FREE, ranks=2)
    for ranks in (1, 2):
        folder.add("adam", "tune", (-5,) * 8, ranks=ranks)
        folder.add("adam", "report", (-5, -5), ranks=ranks, like=0)
    found = folder.bill(replay=True)
    numbers, shown = row(found, "bill-search", "adam", 1)
    assert (shown["Hit"].text, shown["Hit"].detail) == ("0 of 8", "P ≤ 31\u202f%")
    assert numbers["success_limit"] == pytest.approx(1 - 0.05**(1 / 8))
    # 5 over 1 − 0.05^(1/8).
    assert shown["Expected cost (core-seconds)"].text == "more than 16.0\u202fcore\u2011s"
    for name, words in (("bill-spread", "not reached"), ("bill-trainings", "or more")):
        _, shown = row(found, name, "adam", 1)
        assert sum(words in value.text for value in shown.values()) in (2, 3)
    numbers, shown = row(found, "bill-break-even", "adam", 1)
    assert numbers["break_even"] is None
    assert shown["R*"].text == "none"
    assert shown["Verdict"].text == (
        "not known: no tuning trial of adam reached the target")
    totals = [dict(zip(table.head, values, strict=True))
              for table in found.tables[0][1] if table.name == "bill-world-sizes"
              for values in table.rows if values[0].text == "adam"]
    # 40 + 80 core-seconds of tuning; 80 of seeds is what transferring spends at least.
    assert totals[0]["Tune at each N", ""].text == "more than 2.00\u202fcore\u2011min"
    assert totals[0]["Regret at N = 2", ""].text == "neither hit"
    for _, tables in found.tables:
        for each in tables:
            costs = [value for record in each.records() if record["optimizer"] == "adam"
                     for column, value in record.items()
                     if column.endswith("core_seconds")]
            assert costs.count(None) == len(costs)
            assert costs or each.name in ("bill-break-even", "bill-replay")
    # No policy could have found what nobody found.
    assert "not replayed: adam on digits at N = 1, as 0 of 8 reached it" in found.notes


def across(folder):
    found = folder.bill()
    records = [record for record in table(found, "bill-world-sizes").records()
               if record["optimizer"] == "adam"]
    shown = [values for values in table(found, "bill-world-sizes").rows
             if values[0].text == "adam"]
    return records, shown


def two_sizes(path, transferred):
    """adam frozen at draw 0 with N = 1 and at draw 1 with N = 2."""
    folder = Folder(path, ranks=(1, 2)).add("adam", "tune", POOL)
    folder.add("adam", "report", (2,) * SEEDS, like=0)
    folder.add("adam", "tune", (transferred, 3, -5, -5), ranks=2)
    folder.add("adam", "report", (3,) * SEEDS, ranks=2, like=1)
    folder.add("apts", "report", (4,) * SEEDS)
    return folder.add("apts", "report", (4,) * SEEDS, ranks=2)


def test_the_three_totals_by_hand(tmp_path):
    records, shown = across(two_sizes(tmp_path / "study", 4))
    assert [r["trainings"] for r in records] == [1, 10, 100]
    # Tuned for 20 at N = 1 and 2 · 17 at N = 2; again 2 and 6; transferred 2 · 4 each.
    assert [r["tune_each_core_seconds"] for r in records] == [54, 54 + 9 * 8, 54 + 99 * 8]
    # What was chosen at N = 1 was run once at N = 2, in tuning: a rough regret, and no bill.
    assert [r["transfer_core_seconds"] for r in records] == [None] * 3
    assert [each[3].text for each in shown] == ["not rerun"] * 3
    assert records[0]["regret_2"] == pytest.approx(8 / 6)
    assert (shown[0][-1].text, shown[0][-1].detail) == ("1.33", "one trial")
    free = [r for r in table(two_sizes(tmp_path / "again", 4).bill(), "bill-world-sizes").records()
            if r["optimizer"] == "apts"]
    assert [r["transfer_core_seconds"] for r in free] == [12, 120, 1200]


def test_what_is_frozen_at_both_n_may_be_transferred(tmp_path):
    folder = Folder(tmp_path / "study", ranks=(1, 2), labels=("adam",))
    for ranks in (1, 2):
        folder.add("adam", "tune", POOL, ranks=ranks)
        folder.add("adam", "report", (2,) * SEEDS, ranks=ranks, like=0)
    records, _ = across(folder)
    # Tuned for 20 at N = 1; two ranks take 2 · 2 for each training.
    assert [r["transfer_core_seconds"] for r in records] == [
        20 + 4, 20 + 9 * 2 + 10 * 4, 20 + 99 * 2 + 100 * 4]
    few = Folder(tmp_path / "few", ranks=(1, 2), labels=("adam",))
    for ranks in (1, 2):
        few.add("adam", "tune", POOL, ranks=ranks)
        few.add("adam", "report", (2, -9), ranks=ranks, like=0)
    assert [each[3].text for each in across(few)[1]][1:] == ["not told"] * 2


def test_a_transferred_configuration_that_missed(tmp_path):
    records, shown = across(two_sizes(tmp_path / "study", -6))
    assert records[0]["transfer_core_seconds"] is records[0]["regret_2"] is None
    assert shown[0][3].text == "not rerun"
    assert shown[0][4].text == "more than 2.11"  # 1 − 0.05^(1/2) = 0.776 at most
    assert records[0]["tune_each_core_seconds"] == 20 + 2 * 19


def test_who_was_not_run_everywhere_is_said(tmp_path):
    folder = Folder(tmp_path / "study", ranks=(1, 2)).add("adam", "tune", POOL)
    folder.add("adam", "tune", (4,), ranks=2, like=3)
    folder.add("adam", "report", (2, 2), like=0).add("adam", "report", (4, 4), 2, like=3)
    found = folder.bill()
    assert not any(each.name == "bill-world-sizes" for _, tables in found.tables
                   for each in tables)
    assert ("totals across N leave out adam on digits: the configuration chosen at N = 1 was not "
            "run at N = 2") in found.notes
    folder.add("apts", "report", FREE)
    assert ("totals across N leave out apts on digits: it has no trials with known costs at some N"
            in folder.bill().notes)


def test_one_n_has_no_totals(known):
    found = known.bill()
    assert [each.name for each in found.tables[0][1]] == [
        "bill-search", "bill-spread", "bill-trainings", "bill-break-even"]
    assert not any("across N" in note for note in found.notes)


def test_a_study_without_tuning(tmp_path):
    folder = Folder(tmp_path / "study", ranks=(1, 2), trials=0)
    for label in ("adam", "apts"):
        for ranks in (1, 2):
            folder.add(label, "report", (4,) * SEEDS, ranks=ranks, like=0)
    found = folder.bill(replay=True)
    assert [each.name for each in found.tables[0][1]] == [
        "bill-search", "bill-spread", "bill-trainings"]
    assert any(note.startswith("nothing was tuned") for note in found.notes)
    assert row(found, "bill-trainings", "adam", 2)[0]["bill_10_core_seconds"] == 80


def test_the_winner_that_changes_with_the_level(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "sgd"), trials=0)
    folder.add("adam", "report", (3,), like=0)
    folder.add("sgd", "report", (4,), like=0, values=[MISS, 0.935, 0.935, 0.935, HIT])
    found = folder.bill()
    assert found.warnings == [
        "the winner depends on the level of the target, digits at N = 1: sgd at 95\u202f% and "
        "99\u202f%, adam at 100\u202f%"]
    assert row(folder.bill(level=0.95), "bill-search", "sgd")[0]["ert_core_seconds"] == 1
    assert row(found, "bill-search", "sgd")[0]["ert_core_seconds"] == 4
    with pytest.raises(UserError, match=r"--level 0.9: .* digits has the levels 0.95, 0.99 and 1"):
        folder.bill(level=0.9)


def test_a_currency_that_was_not_counted(known):
    known.add("apts", "report", FREE, flops=None)
    found = known.bill("flops")
    assert row(found, "bill-search", "apts")[1]["Expected cost (FLOPs)"].text == "not counted"
    assert row(found, "bill-search", "adam")[0]["ert_flops"] == 1e7
    assert "no flops were counted for apts at N = 1 on digits" in found.notes
    assert {record["optimizer"] for record in table(found, "bill-trainings").records()} == {"adam"}


def test_a_rank_alone_has_no_bytes_to_compare(known):
    assert "bill-break-even" not in [each.name for each in known.bill("wire_bytes").tables[0][1]]


def test_replayed_policies(tmp_path):
    folder = Folder(tmp_path / "study").add("adam", "tune", (2, -4, 3, -5, -6))
    found = folder.bill(replay=True)
    shown = pd.DataFrame(table(found, "bill-replay").records()).set_index("policy")
    (cell,) = [cell for group in gather(folder.path).groups for cell in group.cells if cell.tune]
    expected = replay_all([curve(r, "core_seconds") for r in cell.tune], "max")
    assert [*shown.index] == [*expected]
    for policy, result in expected.items():
        assert shown.loc[policy, "orders"] == 500
        assert shown.loc[policy, "cost_core_seconds"] == result.cost
        assert shown.loc[policy, "hit_rate"] == result.hit_rate
    sequential = row(found, "bill-spread", "adam")[0]["sequential_core_seconds"]
    assert shown.loc["sequential", "cost_core_seconds"] == pytest.approx(sequential, rel=0.1)
    # Passes of several trials have no common clock.
    passes = table(folder.bill("gradient_evaluations", replay=True), "bill-replay").records()
    assert not any("race" in record["policy"] for record in passes)


def test_pruned_trials_and_dependent_draws_are_said(tmp_path):
    folder = Folder(tmp_path / "study", sampler="tpe").add("adam", "tune", (2, 3))
    fixture.write(folder.path, fixture.trial("adam", 1, "tune", 2, suite=SUITE), [], "pruned",
                  seconds=1.0)
    found = folder.bill(replay=True)
    assert "bill-replay" not in [each.name for each in found.tables[0][1]]
    assert ("not replayed: adam on digits at N = 1, of which 1 trial did not run to the end"
            in found.notes)
    assert any(note.startswith("1 pruned trial counts as") for note in found.notes)
    assert any(note.startswith("configurations were drawn by tpe") for note in found.notes)


def test_whose_search_served_another_is_said(known):
    gathered = gather(known.path)
    (group,) = gathered.groups
    cells = tuple(replace(cell, search_owner="sgd" if cell.tune else "") for cell in group.cells)
    found = study_bill(replace(gathered, groups=(replace(group, cells=cells),)), replay=False)
    assert "tuned as sgd" in row(found, "bill-search", "adam")[1]["Optimizer"].badge
    assert any("another optimizer's search served adam at N = 1" in note for note in found.notes)


def test_few_trials_are_marked(known):
    assert "few trials" in row(known.bill(), "bill-search", "adam")[1]["Optimizer"].badge
    assert any(note.startswith("few trials: fewer than 5") for note in known.bill().notes)
    many = Folder(known.path.parent / "many", labels=("adam",)).add("adam", "tune", (2,) * 5)
    assert row(many.bill(), "bill-search", "adam")[1]["Optimizer"].badge == ""


@pytest.mark.parametrize(("low", "high", "number", "words"), [
    (10, 22, 12, "tuning x pays from 14 trainings on (95 % interval: 10 to 22 trainings)"),
    (1, 1, 12, "tuning x pays from 14 trainings on (95 % interval: 1 training)"),
    (10, 22, 4, "the break-even for tuning x is not determined (95 % interval: 10 to 22 "
                "trainings)"),
    (1, 5, 12, "the break-even for tuning x is not determined (95 % interval: 1 to 5 "
                "trainings)"),
    (3, math.inf, 12, "no break-even for tuning x within the data (95 % interval: from 3 "
                      "trainings on)"),
    (math.inf, math.inf, 12, "tuning x never pays"),
    (math.inf, math.inf, 1, "no break-even for tuning x within the data, of 1 fresh seed: "
                             "too few to rule one out"),
])
def test_verdicts_in_words(low, high, number, words):
    assert payoff_sentence("x", BreakEven(14, Interval(low, high), number)) == words


def test_gpus_are_billed_in_gpu_seconds():
    assert CostView("core_seconds", 1.0, "cuda").show(2.0) == "2.00\u202fGPU\u2011s"
