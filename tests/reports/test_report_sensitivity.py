"""Cost against the varied hyperparameter, success by N, transfer: numbers as in the records."""

import math

import msgspec
import pytest
import report_fixture as fixture

from bench_apts.core import store
from bench_apts.reports.section_parts import Listing, Pictures, Prose
from bench_apts.reports.sections import hyperparameter_sensitivity
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.trial_costs import outcome, select_fastest
from bench_apts.stats.world_sizes import transfer_regret


def built(folder):
    return hyperparameter_sensitivity.part(fixture.contexts(folder)[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixture.populate_searched(tmp_path_factory.mktemp("searched") / "study")


@pytest.fixture(scope="module")
def part(folder):
    return built(folder)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """At N = 4 another rate is best, the largest."""
    return fixture.populate_searched(tmp_path_factory.mktemp("moved") / "study", edge=True)


@pytest.fixture(scope="module")
def moved_part(moved):
    return built(moved)


@pytest.fixture(scope="module")
def records(folder):
    return store.read_trials(folder)


def figures(part):
    return {figure.slug: figure for block in part.blocks if isinstance(block, Pictures)
            for figure in block.figures}


def rows(part, slug):
    return figures(part)[slug].data.records()


def tuned(records, ranks):
    return sorted((r for r in records if r.trial.label == "sgd" and r.trial.ranks == ranks
                   and r.trial.stage == "tune"), key=lambda r: r.trial.repetition)


@pytest.mark.parametrize("ranks", fixture.RANKS)
def test_the_points_are_the_records(part, records, ranks):
    found = rows(part, f"digits-n{ranks}-sensitivity-lr")
    expected = []
    for record in tuned(records, ranks):
        cost = outcome(record).cost["core_seconds"]
        expected.append((record.trial.hyperparameters["lr"], record.end.status,
                         cost if math.isfinite(cost) else None))
    assert [(r["value"], r["status"], r["core_seconds_to_target"]) for r in found] == sorted(
        expected)
    assert {r["optimizer"] for r in found} == {"sgd"}


def test_the_widest_range_is_the_axis_and_a_radius_given_by_hand_has_its_own(part):
    shown = {slug for slug in figures(part) if "sensitivity" in slug}
    assert shown == {f"digits-n{n}-sensitivity-{knob}" for n in fixture.RANKS
                     for knob in ("lr", "start")}
    values = [r["value"] for r in rows(part, "digits-n1-sensitivity-start")]
    assert values == sorted(2 * list(fixture.STARTS.values()))


def test_failures_are_drawn_by_their_kind_and_said(part):
    figure = figures(part)["digits-n2-sensitivity-lr"]
    assert "+ diverged" in figure.caption
    assert "| ran into the time limit" in figure.caption
    assert "4 of 6" in figure.caption
    assert "6 trials, 4 of which hit" in figure.basis
    assert "validation accuracy of at least 94" in figure.basis
    assert "cap: 28" in figure.basis
    assert "samples to the target" in figure.inline


def test_bins_count_every_trial_once(part, records):
    found = rows(part, "digits-success-lr-c0")
    for ranks in fixture.RANKS:
        mine = [r for r in found if r["ranks"] == ranks]
        assert len(mine) == 5
        assert [r["low"] for r in mine[1:]] == [r["high"] for r in mine[:-1]]
        assert (mine[0]["low"], mine[-1]["high"]) == (1e-3, 1.0)
        for row in mine:
            inside = [r for r in tuned(records, ranks)
                      if row["low"] <= r.trial.hyperparameters["lr"] < row["high"]]
            assert row["trials"] == len(inside)
            assert row["hits"] == sum(outcome(r).hit for r in inside)


def test_the_finding_names_the_least_and_the_most_sensitive(part):
    # 12 of sgd's 18 draws hit, and of the 18 trainings with a radius given by hand as many.
    assert "12 of 18 trials of sgd hit, with lr between 0.01 and 0.2" in part.finding
    assert "12 of 18 trials of apts hit, with start between 0.001 and 0.01" in part.finding


def test_transfer_is_the_ratio_of_expected_costs(part, moved, moved_part):
    (table,) = [b.table for b in part.blocks if isinstance(b, Listing)]
    (row,) = table.records()
    assert row["chosen_at"] == "1 2 4"
    assert [row[f"regret_{n}"] for n in fixture.RANKS] == [1, 1, 1]
    mine = store.read_trials(moved)
    tables = [b.table for b in moved_part.blocks if isinstance(b, Listing)]
    near, far = tables[0].records()
    assert (near["chosen_at"], far["chosen_at"]) == ("1 2", "4")
    native = [outcome(r) for r in mine if r.trial.label == "sgd" and r.trial.ranks == 4
              and r.trial.stage == "report"]
    carried = [outcome(r) for r in tuned(mine, 4) if r.trial.hyperparameters["lr"] == 0.03]
    costs = [ert([o.spent["core_seconds"] for o in drawn],
                 [o.cost["core_seconds"] for o in drawn]).cost for drawn in (carried, native)]
    assert near["regret_4"] == transfer_regret(*costs)
    # The rate that is best at N = 4 diverges elsewhere: no number, but words.
    assert far["regret_1"] is None
    assert any(value.text.startswith("more than") for value in tables[0].rows[1])


def test_an_optimum_at_the_edge_is_a_warning(part, moved, moved_part):
    assert not [b for b in part.blocks if isinstance(b, Prose)]
    assert select_fastest(tuned(store.read_trials(moved), 4)).trial.hyperparameters["lr"] == 0.97
    (line,) = [b.text for b in moved_part.blocks if isinstance(b, Prose)]
    assert line.startswith("Optimum at the edge: at N = 4 the best lr of sgd is 0.97")
    assert "0.001 to 1" in line


def test_who_shares_a_search_is_not_shown_twice(part):
    assert all(r["optimizer"] in ("sgd", "apts") for figure in figures(part).values()
               for r in figure.data.records())


def test_there_is_no_section_where_nothing_was_varied(tmp_path):
    plan = msgspec.structs.replace(fixture.study(trials=0), ranks=(1,))
    folder = fixture.populate(tmp_path / "study", plan)
    assert built(folder) is None


def test_no_hit_at_all_is_said(tmp_path):
    folder = fixture.populate_searched(tmp_path / "study")
    for path in (folder / "trials").iterdir():
        kept = [line for line in path.read_text().splitlines() if '"event":"eval"' not in line]
        path.write_text("\n".join(kept) + "\n")
    found = built(folder)
    assert found.finding == "No trial reached the target, whatever its hyperparameters."
