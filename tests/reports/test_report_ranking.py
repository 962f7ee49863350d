"""The section about who is cheaper than whom: ratios, Holm, resamples, levels, profiles."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import msgspec
import pytest
from report_fixture import HIT, MISS, Folder
from report_fixture import SECONDS_SUITE as SUITE

from bench_apts.reports.section_parts import Listing, Pictures, StudyContext
from bench_apts.reports.sections import optimizer_ranking
from bench_apts.stats.pairwise_comparison import Bill, compare, first_ranks
from bench_apts.stats.verdict import holm

INF = float("inf")


def built(folder, contexts=None):
    return optimizer_ranking.part(StudyContext(tuple(contexts or folder.contexts())))


def records(part, name):
    return [record for block in part.blocks if isinstance(block, Listing)
            and block.table.name == name for record in block.table.records()]


def shown(part, name, label):
    (row,) = [row for block in part.blocks if isinstance(block, Listing)
              and block.table.name == name for row in block.table.rows if row[0].text == label]
    return row


@pytest.fixture
def three(tmp_path):
    """Ten seeds each: sgd costs twice what apts does, and adam about the same."""
    folder = Folder(tmp_path / "study", labels=("adam", "apts", "sgd"), trials=0)
    folder.add("apts", "report", (2, 3) * 5, like=0).add("sgd", "report", (4, 6) * 5, like=0)
    return folder.add("adam", "report", (3, 2) * 5, like=0)


def test_ratios_to_apts_in_pairs(three):
    part = built(three)
    found = {record["optimizer"]: record for record in records(part, "ranking")}
    assert found["sgd"]["ratio"] == 2
    # In pairs the luck of a seed cancels.
    assert 1.9 < found["sgd"]["ratio_low"] < 2 < found["sgd"]["ratio_high"] < 2.1
    assert found["sgd"]["paired"] is True
    assert found["sgd"]["star"] is True
    assert shown(part, "ranking", "sgd")[4].text == "2.00 ★"
    pools = {label: Bill(*[[float(x) for x in costs]] * 2) for label, costs in (
        ("adam", (3, 2) * 5), ("apts", (2, 3) * 5), ("sgd", (4, 6) * 5))}
    family = [compare(pools[label], pools["apts"], paired=True) for label in ("adam", "sgd")]
    assert [found[label]["p_holm"] for label in ("adam", "sgd")] == holm([c.p for c in family])
    assert found["adam"]["star"] is False
    assert found["adam"]["ratio_low"] == pytest.approx(family[0].interval.low)
    shares = first_ranks(pools, paired=True)
    assert {label: found[label]["first_rank"] for label in shares} == shares
    assert found["sgd"]["first_rank"] == 0
    assert shown(part, "ranking", "apts")[4].text == "reference"
    assert "1 of 2 comparisons with the reference tells the two apart (★)." in part.finding


def test_one_trial_has_no_rank_and_is_named(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "sgd", "apts"))
    folder.add("adam", "tune", (4, 6, 4)).add("sgd", "tune", (5, 6, 4))
    part = built(folder.add("apts", "report", (2,)))
    assert "Not among them, as one trial cannot be resampled: apts." in part.finding


def test_other_seeds_are_no_pairs(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "apts"))
    folder.add("adam", "tune", (4, 6, 4, 6, 4)).add("apts", "report", (2, 3, 2))
    (found,) = [r for r in records(built(folder), "ranking") if r["optimizer"] == "adam"]
    expected = compare(Bill(*[[4, 6, 4, 6, 4]] * 2), Bill(*[[2, 3, 2]] * 2), paired=False)
    assert found["paired"] is False
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == pytest.approx(
        (expected.ratio, *expected.interval))


def test_misses_have_words_and_no_ratio(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "apts"), trials=0)
    folder.add("adam", "report", (-5, -5), like=0).add("apts", "report", (4, 4))
    part = built(folder)
    row = shown(part, "ranking", "adam")
    assert (row[3].text, row[4].text) == ("more than 9,020\u202fsamples", "never reached it")
    (found,) = [r for r in records(part, "ranking") if r["optimizer"] == "adam"]
    assert found["ratio"] is found["ert_samples"] is None


def test_without_apts_the_cheapest_is_the_reference(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "sgd", "apts"), trials=0)
    folder.add("adam", "report", (3, 4), like=0).add("sgd", "report", (6, 8), like=0)
    part = built(folder.add("apts", "report", (-4, -4)))
    assert {record["against"] for record in records(part, "ranking")} == {"adam"}
    assert shown(part, "ranking", "adam")[4].text == "reference"
    # A single trial has no interval and cannot be resampled.
    alone = Folder(tmp_path / "alone", labels=("adam", "sgd"), trials=0)
    alone.add("adam", "report", (3, 4), like=0).add("sgd", "report", (6,), like=0)
    row = shown(built(alone), "ranking", "sgd")
    assert (row[4].detail, row[6].text) == ("one trial, no interval", "one trial")


def test_nobody_arrives(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "sgd"), trials=0)
    part = built(folder.add("adam", "report", (-3, -3), like=0).add(
        "sgd", "report", (-4, -4), like=0))
    assert part.finding.startswith("Nobody is first")
    assert {record["ratio"] for record in records(part, "ranking")} == {None}


def test_one_search_is_one_rival(three):
    (context,) = three.contexts()
    (group,) = context.groups
    cells = tuple(replace(cell, search_owner="adam" if cell.label == "sgd" else "")
                  for cell in group.cells)
    part = built(three, [replace(context, groups=(replace(group, cells=cells),))])
    assert {record["optimizer"] for record in records(part, "ranking")} == {"adam", "apts"}


def test_a_winner_that_changes_with_the_level(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "sgd"), trials=0)
    folder.add("adam", "report", (3,), like=0)
    folder.add("sgd", "report", (4,), like=0, values=[MISS, 0.935, 0.935, 0.935, HIT])
    part = built(folder)
    assert ("But the winner depends on the level of the target, digits at N = 1: sgd at "
            "95\u202f% and 99\u202f%, adam at 100\u202f%.") in part.finding
    found = {(r["level"], r["other_level"]): r for r in records(part, "level-ranking")}
    assert {pair: r["kendall_tau"] for pair, r in found.items()} == {
        (0.95, 0.99): 1, (0.95, 1.0): -1, (0.99, 1.0): -1}
    assert (found[0.95, 1.0]["lowest"], found[0.95, 1.0]["other_lowest"]) == ("sgd", "adam")


def problems(path, names, ranks=(1,)):
    """adam is the best on all but the last two cases: there twice the best, and a miss."""
    suites = tuple(msgspec.structs.replace(SUITE, name=name) for name in names)
    folder = Folder(path, labels=("adam", "apts"), ranks=ranks, trials=0, suites=suites)
    cases = [(suite, n) for suite in suites for n in ranks]
    for place, (suite, n) in enumerate(cases, 1):
        mine = {len(cases) - 1: (4, 4), len(cases): (-9, -9)}.get(place, (2, 2))
        folder.add("adam", "report", mine, ranks=n, like=0, suite=suite)
        folder.add("apts", "report", (8, 8) if place < len(cases) - 1 else (2, 2), ranks=n,
                   suite=suite)
    return folder


EIGHT = [f"s{number}" for number in range(1, 9)]


def test_profiles_of_eight_problems_by_hand(tmp_path):
    part = built(problems(tmp_path / "study", EIGHT))
    found = {record["optimizer"]: record for record in records(part, "profile")}
    # Best on six of eight, twice the best on one, one miss.
    assert found["adam"]["score"] == pytest.approx((6 + 2 / 3) / 8)
    assert (found["adam"]["cheapest"], found["adam"]["solved"]) == (6 / 8, 7 / 8)
    # Four times the best earns nothing.
    assert found["apts"]["score"] == pytest.approx(2 / 8)
    assert found["adam"]["score_low"] < found["adam"]["score"] < found["adam"]["score_high"]
    (figure,) = [f for b in part.blocks if isinstance(b, Pictures) for f in b.figures]
    assert figure.caption.startswith("Largest area: adam, score 0.83 ")
    assert figure.basis.startswith("n = 8 problems: s1, N = 1; s2, N = 1; ")
    assert ET.fromstring(figure.inline).get("role") == "img"
    steps = [(r["ratio"], r["share"]) for r in figure.data.records() if r["optimizer"] == "adam"]
    assert steps == [(1, 6 / 8), (2, 7 / 8), (4, 7 / 8)]
    assert not records(part, "ratios")


@pytest.mark.parametrize(("names", "ranks", "count"), [
    (EIGHT[:7], (1,), 7), (["s1"], tuple(range(1, 9)), 1), (EIGHT[:4], (1, 2), 4),
    ([*EIGHT[:6], "s1@tanh", "s2@wide"], (1,), 6)],
    ids=["seven", "eight N of one suite", "four suites at two N", "variants"])
def test_less_than_eight_suites_are_too_few_for_a_profile(tmp_path, names, ranks, count):
    part = built(problems(tmp_path / "study", names, ranks))
    assert not any(isinstance(block, Pictures) for block in part.blocks)
    assert not records(part, "profile")
    (text,) = [b.table.caption for b in part.blocks
               if isinstance(b, Listing) and b.table.name == "ratios"]
    assert "need 8 problems" in text
    assert f"has {count}," in text
    found = {record["optimizer"]: record for record in records(part, "ratios")}
    cases = [f"ratio_{name}_n{n}" for name in names for n in ranks]
    assert [found["adam"][case] for case in cases] == [*[1] * (len(cases) - 2), 2, None]
    assert found["apts"][cases[0]] == 4


def test_a_variant_shares_the_weight_of_its_suite(tmp_path):
    part = built(problems(tmp_path / "study", [*EIGHT, "s8@tanh"]))
    found = {record["optimizer"]: record for record in records(part, "profile")}
    # Best on seven suites; on the eighth twice the best, and a miss in its variant.
    assert found["adam"]["score"] == pytest.approx((7 + (2 / 3 + 0) / 2) / 8)
    assert found["adam"]["solved"] == pytest.approx(7.5 / 8)
    assert (found["adam"]["problems"], found["adam"]["cases"]) == (8, 9)
    (figure,) = [f for b in part.blocks if isinstance(b, Pictures) for f in b.figures]
    assert figure.basis.startswith("n = 8 problems in 9 cases: s1, N = 1; ")


def test_who_was_not_run_on_all_problems_is_left_out_and_named(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "sgd"), ranks=(1, 2), trials=0)
    for ranks in (1, 2):
        folder.add("adam", "report", (3, 4), ranks=ranks, like=0)
    part = built(folder.add("sgd", "report", (6, 8), like=0))
    (table,) = [b.table for b in part.blocks
                if isinstance(b, Listing) and b.table.name == "ratios"]
    assert table.caption.endswith("Left out, as they were not run on all: sgd.")
    assert [row[0].text for row in table.rows] == ["adam"]
