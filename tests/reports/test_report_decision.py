from __future__ import annotations

import math
import re
import statistics
from dataclasses import replace

import pytest
import report_fixture as fixture

from bench_apts.core.store import StudyFile, read_trial
from bench_apts.core.units import THIN
from bench_apts.reports.cells import CellGroup, ReportCell
from bench_apts.reports.gather import Gathered
from bench_apts.reports.section_parts import Context
from bench_apts.reports.sections import decision_boxes
from bench_apts.reports.sections.decision_contest import (
    Entrant,
    by_memory,
    by_network,
    by_trainings,
    contest,
    contest_words,
    judge_contests,
)
from bench_apts.reports.table import unstable_winner
from bench_apts.reports.tuning_pools import CostView, read_pool
from bench_apts.stats import trial_costs
from bench_apts.stats.amortisation import break_even
from bench_apts.stats.network_model import Fabric
from bench_apts.stats.pairwise_comparison import Bill, compare
from bench_apts.stats.timing_noise import Noise

VIEW = CostView("samples", 1.0, "cpu")


@pytest.fixture
def make(tmp_path):
    def trials(label, ranks, paces, stage):
        records = []
        for number, pace in enumerate(paces):
            spec = fixture.trial(label, ranks, stage, number, tuning_free=label == "apts")
            curve = fixture.evals(spec, pace=pace, step_s=0.002, backwards=1, every=1)
            records.append(read_trial(fixture.write(tmp_path, spec, curve, "hit")))
        return tuple(records)

    def cell(label, ranks, paces, fresh):
        """One optimizer whose draws learn at these paces; 0.05 never hits."""
        if label == "apts":
            return ReportCell(fixture.SUITE, label, label, ranks, True, (), None,
                        trials(label, ranks, paces, "report"))
        drawn = trials(label, ranks, paces, "tune")
        return ReportCell(
            fixture.SUITE,
            label,
            label,
            ranks,
            False,
            drawn,
            drawn[0] if drawn else None,
            trials(label, ranks, fresh, "report"),
        )

    return lambda ranks, fresh=(), **paces: CellGroup(fixture.SUITE, ranks, tuple(
        cell(label, ranks, values, fresh) for label, values in paces.items()))


def box(group, *others):
    """The decision box of one group beside others of its suite."""
    groups = (group, *others)
    file = StudyFile(fixture.study(ranks=(group.ranks,)), [], "", fixture.ENVIRONMENT)
    context = Context(Gathered(file, groups, (), {}), fixture.SUITE, "digits", groups, {},
                      {each.ranks: False for each in groups}, None)
    return decision_boxes.part(context).blocks[0].boxes[0]


def text(found):
    return " ".join([found.headline, *found.remarks, *(a.detail for a in found.answers)])


def answer(found, slug):
    return next(a for a in found.answers if a.numbers["question"] == slug)


def bills(cell):
    drawn = cell.outcomes()
    return Bill(tuple(o.spent["samples"] for o in drawn), tuple(o.cost["samples"] for o in drawn))


def test_a_clear_winner_and_apts_losing(make):
    found = box(make(1, sgd=[4.0] * 8, apts=[0.7] * 8))
    assert found.verdict == "clear"
    assert found.headline.startswith("sgd reaches the target for the least")
    assert any(s.startswith("apts loses here: it costs") for s in found.remarks)
    assert answer(found, "train_once").choice == "sgd"


def test_few_trials_decide_nothing(make):
    found = box(make(1, sgd=[4.0] * 6, apts=[0.7] * 2))
    assert found.verdict == "cannot be told"
    assert "so few trials" in found.headline
    assert "So few trials could not tell any two apart" in answer(found, "train_once").detail


def test_an_interval_that_spans_one_is_no_clear_winner(make):
    group = make(1, sgd=[4.0, 0.05, 0.9, 0.05, 2.0, 1.0], apts=[1.5] * 6)
    found = box(group)
    assert found.verdict == "not told apart"
    assert found.headline.startswith("No clear winner.")
    once = answer(found, "train_once")
    assert once.choice == "No clear winner"
    assert once.label == ""
    assert once.numbers["ratio_low"] < 1 < once.numbers["ratio_high"]


@pytest.mark.parametrize("paired", [True, False])
def test_ratios_are_those_of_stats(make, paired):
    group = make(1, sgd=[4.0, 0.05, 0.9, 0.05, 2.0, 1.0], adam=[1.0] * (6 if paired else 7),
                 nadamw=[3.0, 0.8, 0.05, 1.0, 2.5, 3.0])
    found = contest([by_trainings(read_pool(cell, VIEW), 1) for cell in group.cells])
    ordered = sorted(group.cells, key=lambda cell: cell.ert("samples").cost)
    assert [found.best.cell, *(r.entrant.cell for r in found.rivals)] == ordered
    expected = [compare(bills(cell), bills(ordered[0]),
                        paired=len(cell.draws) == len(ordered[0].draws))
                for cell in ordered[1:]]
    assert [rival.comparison for rival in found.rivals] == expected


def test_ten_trainings_are_all_tuning_trials_and_nine_fresh_ones(make):
    group = make(1, fresh=[4.0, 3.0, 5.0], sgd=[4.0, 0.05, 0.9, 0.05, 2.0, 1.0], apts=[1.0] * 6)
    sgd, apts = group.cells
    fresh = statistics.fmean(o.spent["samples"] for o in sgd.finals)
    tens = {"sgd": sum(bills(sgd).spent) + 9 * fresh, "apts": 10 * apts.ert("samples").cost}
    for cell in group.cells:
        assert by_trainings(read_pool(cell, VIEW), 10).value == pytest.approx(tens[cell.label])
    ten = answer(box(group), "train_ten_times")
    assert (ten.numbers["lowest"], ten.numbers["value"]) == (
        min(tens, key=tens.get), pytest.approx(min(tens.values())))


def test_ten_trainings_take_fresh_seeds(make):
    group = make(1, sgd=[4.0] * 6, apts=[1.0] * 6)
    # What was never trained again has no bill of ten, and no trial of the search stands in.
    assert by_trainings(read_pool(group.cells[0], VIEW), 10) is None
    found = answer(box(group), "train_ten_times")
    assert found.choice == "Only apts"
    assert "Left out, as not run on fresh seeds: sgd." in found.detail


def test_noise_makes_a_lead_worthless():
    def entrant(label, value):
        return Entrant(ReportCell(fixture.SUITE, label, label, 1, False, (), None, ()),
                       Bill([value] * 9, [value] * 9), (1,) * 9)

    def verdict(*arguments):
        (found,) = judge_contests([contest(*arguments)])
        return found.verdict

    two = [entrant("a", 1.0), entrant("b", 1.2)]
    assert verdict(two) == "clear"
    assert verdict(two, Noise(1.3, 1.3, 9, 0.0)) == "not told apart"
    # Equal trials that scatter by 30 % tell 20 % apart in the mean of nine.
    assert verdict(two, Noise(1.0, 1.3, 9, 0.2)) == "clear"
    # Certain, but of no use to anybody.
    near = contest([entrant("a", 1.0), entrant("b", 1.001)])
    assert verdict([entrant("a", 1.0), entrant("b", 1.001)]) == "not told apart"
    assert "equal within half a percent: b" in contest_words(near, str)[1]


def test_modelled_time_is_computing_and_sending(make):
    group = make(2, sgd=[4.0] * 3)
    cell = group.cells[0]
    fabric = Fabric(1e6, 0.01, "invented")
    total = 0.0
    for record, outcome in zip(cell.draws, cell.outcomes(), strict=True):
        assert outcome.hit
        event = next(e for e in record.evals if e.train_s == outcome.cost["train_s"])
        traffic = event.comm["train"]["all_reduce"]
        # Two ranks: each half of a ring all-reduce is one hop with half of the payload.
        total += 1e-5 * event.samples / 2 + traffic.calls * 2 * 0.01 + traffic.payload_bytes / 1e6
    assert by_network(cell, fabric, 1e-5).value <= total / 3 * (1 + 1e-9)
    slower = by_network(cell, Fabric(1e6, 0.1, "invented"), 1e-5).value
    assert slower > by_network(cell, fabric, 1e-5).value


def test_memory_counts_only_for_those_that_reach_the_target(make):
    group = make(1, apts=[1.5] * 3)
    assert by_memory(group.cells[0]).value == 310_000_000
    assert math.isinf(by_memory(make(1, apts=[0.05] * 3).cells[0]).value)


def test_a_process_on_cpus_is_no_answer_where_memory_is_short(make):
    """Its resident set is Python's: 540 against 544 MB of a model of 26 kB said nothing."""
    group = make(1, sgd=[4.0] * 6, apts=[1.5] * 6)
    assert answer(box(group), "memory").verdict != "clear"  # equal tensors
    (first, *_) = group.cells[1].draws
    for event in first.evals:
        event.tensor_bytes = None  # as in records of before
    questions = [each.numbers["question"] for each in box(group).answers]
    assert "memory" not in questions


def test_counted_memory_needs_no_test(make):
    """Bytes of tensors depend on no seed: three trials tell what three hundred would."""
    group = make(1, sgd=[4.0] * 3, apts=[1.5] * 3)
    # Those of sgd are those of its final trainings, here the same trials.
    sgd, apts = (replace(cell, seeds=cell.draws) for cell in group.cells)
    for record in apts.seeds:
        for event in record.evals:
            event.tensor_bytes = 2 * sgd.memory
    (found,) = judge_contests([contest([by_memory(sgd), by_memory(apts)])])
    assert found.verdict == "clear"
    assert found.rivals[0].comparison.ratio == 2
    apts.seeds[0].evals[0].tensor_bytes = 3 * sgd.memory  # depends on the seed after all
    (found,) = judge_contests([contest([by_memory(sgd), by_memory(replace(apts))])])
    assert found.verdict == "cannot be told"


def test_slow_networks_are_modelled_from_two_ranks_on(make):
    paces = {"sgd": [4.0] * 6, "adam": [1.0] * 6}
    alone = [a.numbers["question"] for a in box(make(1, **paces)).answers]
    assert alone == ["train_once", "train_ten_times", "memory", "tuning_cost"]
    both = [a.numbers["question"] for a in box(make(2, **paces), make(1, **paces)).answers]
    assert both == ["train_once", "train_ten_times", "network_eth10g", "network_wan", "memory",
                    "tuning_cost"]


def test_bytes_to_the_target_are_those_of_the_median_final_training(make):
    group = make(2, fresh=[4.0, 1.0, 2.0], sgd=[4.0] * 6, apts=[0.05] * 3)
    found = answer(box(group), "bytes_to_target")
    sent = sorted(trial_costs.outcome(record).cost["wire_bytes"]
                  for record in group.cells[0].seeds)
    assert (found.numbers["lowest"], found.numbers["value"]) == ("sgd", sent[1])
    assert found.choice.startswith("sgd ")
    assert found.brief.endswith("target not reached: apts")


def test_without_one_rank_alone_bytes_stand_in_for_modelled_time(make):
    """The CPU time of two ranks holds gloo's, which no network shares."""
    found = box(make(2, sgd=[4.0] * 6, adam=[1.0] * 6), make(1, sgd=[4.0] * 6)).answers
    (slow,) = [each for each in found if each.numbers["question"] == "bytes"]
    assert slow.question.endswith("(time is not modelled: needs N = 1 of adam)")


def test_without_a_meter_bytes_stand_in(make):
    group = make(2, sgd=[4.0] * 6, adam=[1.0] * 6)
    group.cells[0].draws[0].evals[-1].comm["train"]["telepathy"] = (
        group.cells[0].draws[0].evals[-1].comm["train"]["all_reduce"])
    assert "bytes" in [a.numbers["question"] for a in box(group).answers]


def test_break_even_is_printed(make):
    found = answer(box(make(1, fresh=[4.0] * 12, sgd=[4.0, 0.05, 2.0, 1.0], apts=[0.7] * 12)),
                   "break_even")
    assert re.match(r"Tuning sgd pays from \d+ trainings on \(95 % interval: \d+ to \d+ trainings",
                    found.choice)
    assert found.detail == "Against apts, which is not tuned."
    low, high = (found.numbers[f"break_even_{end}"] for end in ("low", "high"))
    assert low <= found.numbers["value"] <= high <= 4 * low


def test_the_break_even_is_that_of_the_first_to_pay(make):
    """As the section on tuning has it, or the page would contradict itself."""
    group = make(1, fresh=[4.0] * 12, sgd=[4.0, 0.05, 0.9, 0.05, 2.0, 1.0],
                 adam=[3.9, 0.05, 0.9, 0.9, 2.0, 1.0], apts=[0.7] * 12)
    bills = [read_pool(cell, VIEW).bill for cell in group.cells]
    mine = dict(zip(("sgd", "adam"), (break_even(each, bills[-1]).trainings
                                      for each in bills[:-1]), strict=True))
    found = answer(box(group), "break_even")
    assert (found.numbers["lowest"], found.numbers["value"]) == min(
        mine.items(), key=lambda pair: pair[1])
    assert mine["sgd"] != mine["adam"]


def test_tuning_that_never_pays_is_said_of_all(make):
    found = answer(box(make(1, fresh=[0.6] * 12, sgd=[0.6, 0.05] * 3, apts=[4.0] * 12)),
                   "break_even")
    assert found.choice == "Tuning never pays"
    assert found.detail.startswith("However often one trains, no tuned optimizer's bill falls to "
                                   "that of apts, which is not tuned; sgd comes nearest over 10 "
                                   "trainings.")


@pytest.mark.parametrize(("fresh", "seeds"), [([0.6], 4), ([0.6] * 4, 1), ([0.05] * 4, 4)])
def test_few_seeds_claim_no_break_even(make, fresh, seeds):
    """One or four trials do not prove that tuning never pays, nor from when on it does."""
    for free in (0.7, 4.0):
        found = answer(box(make(1, fresh=fresh, sgd=[0.6] + [0.05] * 3, apts=[free] * seeds)),
                       "break_even")
        assert found.choice in ("No break-even within the data", "Not determined")
        assert re.match(r"(The|No) break-even for tuning sgd (is not determined|within the data)",
                        found.detail)
        assert "sgd" in found.brief
        assert found.numbers["value"] is None


def test_apts_that_misses_is_said_in_words(make):
    found = text(box(make(1, sgd=[4.0] * 6, apts=[0.05] * 5)))
    assert "no other optimizer reached the target" in found
    assert "apts loses here: it costs more than" in found
    assert f"{THIN}samples" in found
    assert "0 of 5 reached it" in found


def test_nobody_hits(make):
    found = box(make(1, sgd=[0.05] * 3, apts=[0.05] * 3))
    assert found.verdict == "none"
    assert found.headline == "No optimizer reached the target."


def test_one_optimizer_alone_is_not_a_winner(make):
    found = box(make(1, sgd=[4.0] * 6))
    assert found.verdict == "not told apart"
    assert "nothing was run to compare it" in found.headline
    assert answer(found, "train_once").choice == "Only sgd"


def test_without_final_trainings_memory_is_unknown(make):
    found = answer(box(make(1, sgd=[4.0] * 6, adam=[3.0] * 6)), "memory")
    assert (found.choice, found.detail) == ("None", "Nothing has been run to tell.")


def test_an_interval_without_limits_is_no_number():
    def entrant(label, value):
        cell = ReportCell(fixture.SUITE, label, label, 1, True, (), None, ())
        return Entrant(cell, Bill([value] * 2, [value, math.inf]), (1,) * 2)

    # One hit of two trials says next to nothing of what a hit costs.
    found = contest([entrant("adam", 1.0), entrant("sgd", 2.0)])
    assert "sgd at 2.00 times that (an interval without limits)" in contest_words(found, str)[1]


def test_nothing_run_yet(make):
    assert box(make(1, sgd=[])).headline == "Nothing has been run yet."


def test_a_winner_that_depends_on_the_level_is_said_to(make):
    group = make(1, sgd=[4.0] * 3, adam=[4.0] * 3)
    assert unstable_winner(group, "samples") == ""
    # sgd is first at 95 % of the target, adam at all of it.
    curves = {"sgd": (0.1, 0.9, 0.9, 0.9, 0.95, 0.95), "adam": (0.1, 0.2, 0.95, 0.95, 0.95, 0.95)}
    for cell in group.cells:
        for record in cell.draws:
            record.evals = record.evals[:6]
            for event, value in zip(record.evals, curves[cell.label], strict=True):
                event.validation["accuracy"] = value
    # Cells remember what they have worked out.
    again = replace(group, cells=tuple(replace(cell) for cell in group.cells))
    assert unstable_winner(again, "samples") == (
        "the winner depends on the level of the target, digits at N = 1: "
        f"sgd at 95{THIN}%, adam at 99{THIN}% and 100{THIN}%")
