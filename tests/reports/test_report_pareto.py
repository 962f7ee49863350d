"""Pareto fronts on the page: membership against the raw records, and its words."""

import math
import statistics

import msgspec
import pytest
import report_fixture as fixture

from bench_apts.core import store
from bench_apts.reports.sections import pareto_fronts
from bench_apts.reports.sections import pareto_fronts as section
from bench_apts.stats.trial_costs import outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixture.populate(tmp_path_factory.mktemp("results") / "study",
                            fixture.study((1, 2), 2, 3))


@pytest.fixture(scope="module")
def part(folder):
    return fixture.build_section(section, folder)


@pytest.fixture(scope="module")
def costs(folder):
    """Median seconds and bytes to the target of each optimizer at N = 2 whose median hit."""
    found = {}
    for label in fixture.PACE:
        finals = [outcome(r) for r in store.read_trials(folder)
                  if (r.trial.stage, r.trial.label, r.trial.ranks) == ("report", label, 2)]
        pair = tuple(statistics.median(o.cost[currency] for o in finals)
                     for currency in ("train_s", "wire_bytes"))
        if math.isfinite(pair[0]):
            found[label] = pair
    return found


def test_one_rank_trades_nothing_for_bytes(part):
    assert list(fixture.figures(part)) == ["n1-front-memory", "n2-front-bytes",
                                            "n2-front-memory"]


def test_the_front_is_that_of_the_raw_records(part, costs):
    rows = {row["optimizer"]: row for row in
            fixture.figures(part)["n2-front-bytes"].data.records()}
    assert set(rows) == set(costs)
    assert fixture.NASTY not in rows
    for label, (seconds, sent) in costs.items():
        row = rows[label]
        assert (row["train_s_to_target"], row["wire_bytes_to_target"]) == (seconds, sent)
        beaten = [rival for rival, (time, moved) in costs.items()
                  if rival != label and time <= seconds and moved <= sent]
        assert row["on_front"] is (not beaten)
        assert row["beaten_by"] == ", ".join(beaten)
    # apts sends least, sgd is fastest: the front has two ends, and adam lies behind.
    assert [label for label in rows if rows[label]["on_front"]] == ["apts", "sgd"]


def test_finding_and_caption_name_the_front(part):
    assert part.finding.startswith("Pareto-optimal: at N = 1 ")
    assert "at N = 2 apts and sgd in time and bytes, " in part.finding
    figure = fixture.figures(part)["n2-front-bytes"]
    assert figure.caption == ("Pareto-optimal: sgd and apts. Not drawn, as the median "
                              f"seed missed: {fixture.NASTY} (0 of 3 reached it).")
    assert "n = 3 seeds" in figure.basis
    memory = fixture.figures(part)["n2-front-memory"]
    assert "Memory is that of the tensors of model and optimizer" in memory.caption


def test_seeds_are_counted_in_the_company_of_their_own_repetition(folder):
    group = fixture.contexts(folder)[0].groups[1]
    for against in ("bytes", "memory"):
        found = {p.cell.label: p for p in pareto_fronts.front_points(group, against)}
        for label, point in found.items():
            count = 0
            for seed, record in enumerate(point.cell.seeds):
                costs = {}
                for rival in group.cells:
                    done = outcome(rival.seeds[seed])
                    other = (done.cost["wire_bytes"] if against == "bytes" else
                             310_000_000.0)
                    costs[rival.label] = (done.cost["train_s"], other)
                mine = costs[label]
                count += math.isfinite(mine[0]) and not any(
                    pair != mine and pair[0] <= mine[0] and pair[1] <= mine[1]
                    for pair in costs.values())
                assert record.trial.repetition == seed
            assert point.seeds_on_front == count
    # All have the same memory: the fastest of each repetition stands alone.
    assert sum(point.seeds_on_front for point in found.values()) == 3


def test_nobody_at_the_target_makes_no_section(tmp_path):
    target = msgspec.structs.replace(fixture.SUITE.target, value=0.999)
    suite = msgspec.structs.replace(fixture.SUITE, target=target)
    plan = fixture.study((1,), 0, 1, (suite,))
    assert fixture.build_section(section, fixture.populate(tmp_path / "study", plan)) is None
