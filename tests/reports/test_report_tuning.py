"""The section about tuning: drawn numbers against numbers by hand, misses, lists, defaults."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial

import msgspec
import pytest
import report_fixture as fixture
from report_fixture import FREE, HIT, MISS, POOL
from report_fixture import SECONDS_SUITE as SUITE
from report_fixture import Folder as Results

from bench_apts.core import store
from bench_apts.core.spec import Searched
from bench_apts.reports.search_figures import best_of_trials
from bench_apts.reports.section_parts import Listing, Prose
from bench_apts.reports.sections import tuning_section
from bench_apts.reports.tuning_pools import CostView, read_pool
from bench_apts.stats.expected_cost import restart_quantile
from bench_apts.stats.intervals import best_of_intervals
from bench_apts.stats.learning_curves import curve
from bench_apts.stats.tuning_replay import listed, replay, sequential

Folder = partial(Results, device="cuda")  # where costs lead with seconds
LIST = Searched("random", "none", "narrow", 1)
RANGES = Searched("random", "none", "narrow", 1, {"lr": (0.01, 1.0)})


def built(folder):
    return section(folder.contexts()[0])


def section(context):
    return tuning_section.part(context)


def figures(part):
    return {figure.slug.split("-", 2)[-1]: figure for figure in part.figures}


def rows(figure, label="adam"):
    return [record for record in figure.data.records() if record["optimizer"] == label]


@pytest.fixture
def known(tmp_path):
    """The known pool of adam, frozen at its first draw, against apts at 4 seconds."""
    folder = Folder(tmp_path / "known")
    folder.add("adam", "tune", POOL, searched=RANGES).add("adam", "report", (2, 2), like=0)
    return folder.add("apts", "report", FREE)


def test_every_figure_says_what_it_rests_on(known):
    part = built(known)
    assert "break-even for tuning adam" in part.finding
    assert part.finding.endswith("), against apts.")
    drawn = figures(part)
    assert [*drawn] == ["bill", "best-of-k", "trainings", "width", "restarts",
                        "policies", "policies-hits"]
    for figure in drawn.values():
        assert figure.basis == (
            "n = 4 trials of each tuned optimizer; 2 seeds of each optimizer without tuning. "
            "Target: validation accuracy of at least 94\u202f%; cap: 28\u202fk samples or "
            "2\u202fmin.")
        assert figure.caption.endswith(".")
        assert figure.data.rows
        assert all(len(row) == len(figure.data.head) for row in figure.data.rows)
        assert ET.fromstring(figure.inline).get("role") == "img"
    assert [b.table.name for b in part.blocks if isinstance(b, Listing)] == [
        "bill-search", "bill-spread", "bill-trainings", "bill-break-even", "bill-width",
        "bill-replay"]


def test_best_of_k_by_hand(known):
    figure = figures(built(known))["best-of-k"]
    one, two = rows(figure)
    assert (one["draws"], one["bill_core_seconds"]) == (1, 5)
    assert (two["draws"], two["bill_core_seconds"]) == (2, 10)
    # Two of four hit at 95 %, the others end at 50 %; five of six pairs hold a hit.
    assert one["best"] == pytest.approx((HIT + MISS) / 2)
    assert two["best"] == pytest.approx(HIT * 5 / 6 + MISS / 6)
    assert two["success"] == pytest.approx(5 / 6)
    assert two["best_cost_core_seconds"] is None
    limits = best_of_intervals([-HIT, -HIT, -MISS, -MISS], 2)
    assert (one["best_low"], one["best_high"]) == pytest.approx(
        (-limits[0].high, -limits[0].low))
    (free,) = rows(figure, "apts")
    assert (free["draws"], free["best"], free["bill_core_seconds"]) == (1, pytest.approx(HIT), 4)
    assert "not even the best of half of the trials reaches the target" in figure.caption


def test_the_best_of_k_is_held_against_what_needs_no_tuning(tmp_path):
    folder = Folder(tmp_path / "study").add("adam", "tune", (2, 3, 4, 5))
    caption = figures(built(folder.add("apts", "report", FREE)))["best-of-k"].caption
    assert "to reach the target on average: K = 1, 3.50\u202fGPU\u2011s; apts " in caption
    assert "apts reaches it without tuning for 4.00\u202fGPU\u2011s." in caption


def test_the_finding_joins_the_n_of_one_answer(tmp_path):
    folder = Folder(tmp_path / "study", ranks=(1, 2, 4))
    for ranks in (1, 2, 4):
        folder.add("adam", "tune", POOL, ranks)
        folder.add("adam", "report", (2,) * 12, ranks, like=0)
        folder.add("apts", "report", (1,) * 12 if ranks < 4 else (-4, -4), ranks)
    assert built(folder).finding == (
        "At N = 1 and N = 2 tuning never pays against apts; at N = 4 only what was tuned reached "
        "the target.")


def test_the_bill_says_who_spent_least_and_whose_training_is_missing(known, tmp_path):
    caption = figures(built(known))["bill"].caption
    assert caption.startswith(
        "Least spent until a final training reached the target: by apts, 4.00\u202fGPU\u2011s; "
        "most by adam, 22.0\u202fGPU\u2011s.")
    folder = Folder(tmp_path / "study").add("adam", "tune", POOL).add("apts", "report", (-4, -4))
    figure = figures(built(folder))["bill"]
    assert figure.caption.startswith("No final training reached the target.")
    assert "The final training of apts missed." in figure.caption
    assert "The final training of adam has not run." in figure.caption
    assert "20.0\u202fGPU\u2011s, tuning only" in figure.inline


def test_searches_of_any_length_are_drawn(tmp_path):
    folder = Folder(tmp_path / "study").add("adam", "tune", POOL).add("apts", "report", FREE)
    for record in store.read_trials(folder.path):
        if record.trial.label == "apts":
            path = folder.path / "trials" / f"{record.trial.run_id}.jsonl"
            path.unlink()
            fixture.write(folder.path, record.trial, [
                msgspec.structs.replace(event, train_s=1e-9 * event.train_s)
                for event in record.evals], "hit")
    figure = figures(built(folder))["restarts"]
    assert "with apts, the least" in figure.caption
    low, high = figure.draw().axes[0].get_xlim()
    assert low < 4e-9
    assert high > 10


def test_what_a_bill_did_not_pay_for_was_not_seen(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam",))
    # Billed up to the hit at two seconds, but trained on.
    folder.add("adam", "tune", (2, 2, 2, 2), values=[MISS, MISS, HIT, 0.99], status="hit")
    figure = figures(built(folder))["best-of-k"]
    assert [record["best"] for record in rows(figure)] == pytest.approx([HIT, HIT])
    assert "on average: K = 1, 2.00\u202fGPU\u2011s" in figure.caption


def test_a_loss_is_best_where_it_is_least(tmp_path):
    target = msgspec.structs.replace(SUITE.target, metric="loss", direction="min", value=0.1)
    folder = Folder(tmp_path / "study", labels=("adam",), suites=(
        msgspec.structs.replace(SUITE, target=target),))
    one, two = rows(figures(built(folder.add("adam", "tune", POOL)))["best-of-k"])
    assert one["best"] == pytest.approx(((1 - HIT) + (1 - MISS)) / 2)
    assert two["best"] == pytest.approx((1 - HIT) * 5 / 6 + (1 - MISS) / 6)
    assert one["best_low"] <= one["best"] <= one["best_high"]


def test_bills_and_their_crossing_by_hand(tmp_path):
    folder = Folder(tmp_path / "study").add("adam", "tune", POOL)
    folder.add("adam", "report", (2,) * 12, like=0).add("apts", "report", (4,) * 12)
    part = built(folder)
    figure = figures(part)["trainings"]
    (mine,), (theirs,) = rows(figure), rows(figure, "apts")
    # 20 for all four tuning trials, then 2 each; 20 + 2 (R − 1) ≤ 4 R from 9 on.
    assert [mine[f"bill_{count}_core_seconds"] for count in (1, 10, 100)] == [20, 38, 218]
    assert theirs["bill_100_core_seconds"] == 400
    assert figure.caption.startswith("Against apts: tuning adam pays from 9 trainings on (")
    assert part.finding.startswith("At N = 1 tuning adam pays from 9 trainings on (")


def test_a_configuration_that_never_hit_again_has_no_line(tmp_path):
    folder = Folder(tmp_path / "study").add("adam", "tune", POOL).add("apts", "report", FREE)
    part = built(folder.add("adam", "report", (-3, -5), like=0))
    assert "trainings" not in figures(part)
    assert "from 1 training on), against apts" in part.finding


def test_misses_are_said_and_never_drawn(tmp_path):
    folder = Folder(tmp_path / "study").add("adam", "tune", (-5,) * 8)
    part = built(folder.add("apts", "report", FREE))
    drawn = figures(part)
    assert "trainings" not in drawn
    # The best of K is a metric, which a miss has, too.
    assert rows(drawn["best-of-k"])[0]["best"] == pytest.approx(MISS)
    assert rows(drawn["best-of-k"])[0]["success"] == 0
    assert ("Not drawn: adam (0 of 8 reached it, more than 16.0\u202fGPU\u2011s)"
            in drawn["restarts"].caption)
    (lost,) = rows(drawn["restarts"])
    assert lost["restart_q90_core_seconds"] is None
    assert [v.text for row in drawn["restarts"].data.rows for v in row
            if v.text == "not reached"] == ["not reached"] * 3
    assert part.finding == "At N = 1 only apts, without tuning, reached the target."


def test_nobody_without_tuning_arrives(tmp_path):
    folder = Folder(tmp_path / "study").add("adam", "tune", POOL).add("apts", "report", (-4, -4))
    part = built(folder.add("adam", "report", (2, 2), like=0))
    assert part.finding == "At N = 1 only what was tuned reached the target."
    assert "nothing to break even with" in figures(part)["trainings"].caption


def test_nothing_was_tuned(tmp_path):
    folder = Folder(tmp_path / "study", trials=0).add("apts", "report", FREE)
    part = built(folder.add("adam", "report", (5, 5), like=0))
    assert part.finding == ("Nothing was tuned in this study; lowest expected cost: apts at "
                            "N = 1.")
    assert [*figures(part)] == ["bill", "restarts"]


def test_restarts_by_hand(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam",)).add("adam", "tune", (1, -10))
    (found,) = rows(figures(built(folder))["restarts"])
    # Bills of 1, 11, 21 and 31 have 50, 25, 12.5 and 6.25 %.
    assert [found[f"restart_q{share}_core_seconds"] for share in (10, 50, 90)] == [1, 1, 31]
    assert found["restart_q90_core_seconds"] == restart_quantile([1, 10], [1, math.inf])


def test_an_ordered_list_is_replayed_in_its_order(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "sgd"))
    folder.add("adam", "tune", (-3, -4, 2, 5), searched=LIST)
    folder.add("sgd", "tune", (-3, -4, 2, 5), searched=RANGES)
    part = built(folder)
    policies = figures(part)["policies"].data.records()
    (mine,) = [record for record in policies if record["optimizer"] == "adam"]
    assert mine["policy"] == "ordered list of 4"
    # 3 and 4 in vain, then 2: there is but one order.
    assert (mine["cost_core_seconds"], mine["cost_q90_core_seconds"]) == (9, 9)
    assert (mine["hit_rate"], mine["orders"], mine["configurations"]) == (1, 500, 4)
    assert [record["policy"] for record in policies if record["optimizer"] == "sgd"] == [
        "sequential", "race of 2", "race of 4", "median", "asha", "hyperband"]
    assert any(b.text.startswith("Trials of adam at N = 1 are a list that is tried in its order")
               for b in part.blocks if isinstance(b, Prose))


def test_fresh_seeds_of_a_listed_configuration_count_too(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam",))
    folder.add("adam", "tune", (-3, 2), searched=LIST).add("adam", "report", (6,), like=1)
    (mine,) = rows(figures(built(folder))["policies"])
    # After 3 in vain, its tuning trial hits at 2 and its other seed at 6, as likely as not.
    assert mine["cost_core_seconds"] == pytest.approx(3 + 4, abs=0.3)
    assert mine["cost_q90_core_seconds"] == 9


def test_defaults_of_all_optimizers(known):
    known.add("apts", "report", (8,), like=0)
    figure = figures(built(known))["policies"]
    (found,) = [record for record in figure.data.records() if not record["optimizer"]]
    assert found["policy"] == "defaults of 2 optimizers"
    cells = {cell.label: cell for cell in known.contexts()[0].groups[0].cells}
    first = [*cells["adam"].tune[:1], *cells["adam"].seeds]
    expected = replay(sequential, listed({
        "adam": [curve(record, "core_seconds") for record in first],
        "apts": [curve(record, "core_seconds") for record in cells["apts"].seeds]},
        ordered=False))
    assert found["cost_core_seconds"] == expected.cost
    # Of all adam's trials only the first configuration's: each hits at 2; apts at 8 or 4.
    assert 2 < expected.cost < 6


def test_a_follower_is_tried_by_its_own_check_and_drawn_once(known):
    (context,) = known.contexts()
    (group,) = context.groups
    adam, apts = group.cells
    looks = {**context.looks, "zero1": context.looks["adam"]}
    zero = replace(adam, label="zero1", search_owner="adam", checks=adam.tune[3:], seeds=())
    led = replace(context, looks=looks, groups=(replace(group, cells=(adam, apts, zero)),))
    drawn = figures(section(led))
    assert {record["optimizer"] for record in drawn["restarts"].data.records()} == {"adam", "apts"}
    assert "Not drawn, as adam's search served: zero1." in drawn["restarts"].caption
    records = drawn["policies"].data.records()
    assert {record["optimizer"] for record in records} == {"adam", ""}
    (found,) = [record for record in records if not record["optimizer"]]
    # Its check is the miss of ten seconds, which comes first in a third of the orders or more.
    assert found["policy"] == "defaults of 3 optimizers"
    assert found["cost_core_seconds"] > 5


def test_unfinished_first_configurations_are_left_out(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "sgd", "apts"))
    folder.add("adam", "tune", (-2, 3), searched=RANGES, status="interrupted")
    folder.add("sgd", "tune", (2, 3), searched=RANGES).add("apts", "report", FREE)
    part = built(folder)
    notes = [b.text for b in part.blocks if isinstance(b, Prose)]
    assert any(note.startswith("Not among the defaults: adam on digits at N = 1")
               for note in notes)
    assert any(note.startswith("Not replayed: adam") for note in notes)
    names = [record["policy"] for record in figures(part)["policies"].data.records()]
    assert "defaults of 2 optimizers" in names


def test_large_pools_are_replayed_with_a_share_of_their_trials(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam",), trials=45)
    folder.add("adam", "tune", (-1,) * 44 + (2,), searched=RANGES)
    figure = figures(built(folder))["policies"]
    plain = rows(figure)[0]
    assert "of which 40 arrive" in figure.data.caption
    # The one hit of 45 is among 40 of them with a probability of 40/45.
    assert plain["hit_rate"] == pytest.approx(40 / 45, abs=0.05)
    assert plain["cost_core_seconds"] > 15


def test_what_is_drawn_is_thinned_to_twelve_k(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam",), trials=60)
    folder.add("adam", "tune", (1, 2, -3) * 20)
    (cell,) = folder.contexts()[0].groups[0].cells
    found = best_of_trials(read_pool(cell, CostView("core_seconds", 1.0, "cuda")), 1.0)
    assert (found.draws[0], found.draws[-1]) == (1, 30)
    assert found.draws == sorted(set(found.draws))
    assert len(found.draws) == len(found.values) == len(found.limits) <= 12
    assert found.bills == pytest.approx([2 * draws for draws in found.draws])
    small = best_of_trials(
        read_pool(replace(cell, tune=cell.tune[:24]), CostView("core_seconds", 1.0, "cuda")), 1.0
    )
    assert small.draws == list(range(1, 13))
