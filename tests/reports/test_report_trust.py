"""Trust region: counts, shares and ratios as in the records, and the alarm when it is stuck."""

import statistics

import pytest
import report_fixture as fixture

from bench_apts.core import store
from bench_apts.reports.section_parts import Listing, Pictures, Prose
from bench_apts.reports.sections import trust_region_steps


def built(folder):
    return trust_region_steps.part(fixture.contexts(folder)[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixture.populate_searched(tmp_path_factory.mktemp("judged") / "study")


@pytest.fixture(scope="module")
def part(folder):
    return built(folder)


def line(part, label, ranks):
    (table,) = [b.table for b in part.blocks if isinstance(b, Listing)]
    (found,) = [r for r in table.records() if (r["optimizer"], r["ranks"]) == (label, ranks)]
    return found


def seeds(folder, label, ranks):
    return [r for r in store.read_trials(folder)
            if (r.trial.label, r.trial.ranks, r.trial.stage) == (label, ranks, "report")]


@pytest.mark.parametrize("ranks", fixture.RANKS)
def test_the_sums_are_those_of_the_records(part, folder, ranks):
    found, mine = line(part, "apts", ranks), seeds(folder, "apts", ranks)
    events = [event for record in mine for event in record.evals[1:]]
    # 40 steps between evaluations, a fifth of them judged, three quarters of these kept.
    assert found["steps"] == 40 * len(events)
    assert found["judged"] == 8 * len(events)
    assert found["accepted"] == 6 * len(events)
    assert found["rejected"] == 2 * len(events)
    assert found["accepted_share"] == 0.75
    assert found["acceptance_ratio"] == statistics.median(
        event.diagnostics["rho"] for event in events)
    assert found["local_passes"] == sum(r.evals[-1].diagnostics["local_passes"] for r in mine)
    assert found["local_passes"] + found["other_passes"] == sum(
        r.evals[-1].forwards + r.evals[-1].backwards for r in mine)
    assert (found["share_at_bound"], found["final_radius"], found["seeds"]) == (0, 0.1, 2)


def test_only_optimizers_that_judge_are_shown(part):
    (table,) = [b.table for b in part.blocks if isinstance(b, Listing)]
    assert {r["optimizer"] for r in table.records()} == set(fixture.STARTS)


def test_each_quantity_has_its_figure_with_basis_and_data(part):
    figures = {f.slug: f for b in part.blocks if isinstance(b, Pictures) for f in b.figures}
    assert set(figures) == {f"digits-n{n}-{what}" for n in fixture.RANKS
                            for what in ("radius", "accepted", "rho", "predicted-actual")}
    for figure in figures.values():
        assert "6 final trainings" in figure.basis
        assert "cap: 28" in figure.basis
        assert len(figure.data.rows) > 6
    # Every step lowered the loss, none by what was predicted.
    assert "by at least what was predicted" in figures["digits-n1-predicted-actual"].caption
    assert " 0 by at least" in figures["digits-n1-predicted-actual"].caption


def test_the_finding_tells_acceptance_and_radius_at_the_largest_n(part):
    assert part.finding.startswith("At N = 4, apts kept 75")
    assert "radius of 0.1" in part.finding
    assert not [b for b in part.blocks if isinstance(b, Prose)]


def test_a_radius_at_its_bound_raises_an_alarm(tmp_path):
    found = built(fixture.populate_searched(tmp_path / "study", at_bound=0.625))
    alarms = [b.text for b in found.blocks if isinstance(b, Prose)]
    assert len(alarms) == len(fixture.RANKS) * len(fixture.STARTS)
    assert "Stuck: at N = 1 the radius of apts lay at one of its bounds after 62" in alarms[0]
    assert line(found, "apts", 2)["share_at_bound"] == 0.625
    assert any(f.slug == "digits-n1-at-bound" for b in found.blocks if isinstance(b, Pictures)
               for f in b.figures)


def test_steps_that_are_all_refused_raise_an_alarm(tmp_path):
    found = built(fixture.populate_searched(tmp_path / "study", accepted=0.0))
    alarms = [b.text for b in found.blocks if isinstance(b, Prose)]
    assert "At a standstill: at N = 1 apts kept no step" in alarms[0]
    assert "in 2 of 2 seeds" in alarms[0]


def test_older_records_do_not_tell_counts_and_none_are_made_up(tmp_path):
    folder = fixture.populate(tmp_path / "study")
    from bench_apts.reports.figure_style import looks
    from bench_apts.reports.gather import gather
    from bench_apts.reports.section_parts import Context

    gathered = gather(folder)
    found = trust_region_steps.part(Context(
        gathered, fixture.SUITE, "digits", gathered.groups, looks([*fixture.PACE]),
        dict.fromkeys((1, 2), False), None))
    row = line(found, "apts", 1)
    assert [row[name] for name in ("judged", "accepted", "rejected", "share_at_bound",
                                   "local_passes", "other_passes")] == [None] * 6
    assert 0 < row["accepted_share"] < 1
    assert "judged steps and ended" in found.finding


def test_there_is_no_section_without_judged_steps(tmp_path):
    folder = fixture.populate_searched(tmp_path / "study")
    for path in (folder / "trials").iterdir():
        path.write_text(path.read_text().replace('"accepted"', '"other"'))
    assert built(folder) is None
