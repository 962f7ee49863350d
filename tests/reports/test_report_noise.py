"""A/A pairs: kept out of every result, and shown as the noise of times."""

import msgspec
import pandas as pd
import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.core import store
from bench_apts.reports.caveats import all_caveats
from bench_apts.reports.gather import gather
from bench_apts.stats.trial_costs import hit_bracket


def slower(curve, factor):
    return [msgspec.structs.replace(e, train_s=factor * e.train_s) for e in curve]


@pytest.fixture
def folder(tmp_path):
    """A study in which the twins of sgd took 1.5 times as long at N = 1, 0.8 times at N = 2."""
    folder = fixture.populate(tmp_path / "digits")
    for record in store.read_trials(folder):
        if record.trial.label == "sgd" and record.trial.stage == "report":
            twin = msgspec.structs.replace(record.trial, twin=True)
            curve = slower(record.evals, 1.5 if twin.ranks == 1 else 0.8)
            fixture.write(folder, twin, curve, record.end.status, test=0.5)
    return folder


def test_twins_are_no_seeds(folder, tmp_path):
    plain = gather(fixture.populate(tmp_path / "plain"))
    with_twins = gather(folder)
    assert not with_twins.left_out
    for before, after in zip(plain.groups, with_twins.groups, strict=True):
        for one, other in zip(before.cells, after.cells, strict=True):
            assert len(one.seeds) == len(other.seeds)
            assert one.test == other.test
            assert one.to_target("train_s") == other.to_target("train_s")
            assert len(other.twins) == (2 if other.label == "sgd" else 0)


def test_the_noise_of_each_world_size(folder):
    one, two = gather(folder).groups
    assert one.noise.factor == pytest.approx(1.5)
    assert two.noise.factor == pytest.approx(1 / 0.8)
    assert one.noise.mean == pytest.approx(1.5)
    assert two.noise.mean == pytest.approx(0.8)
    assert one.noise.pairs == 2


def test_an_unfinished_twin_makes_no_pair(folder):
    for record in store.read_trials(folder):
        if record.trial.twin and record.trial.ranks == 1:
            fixture.write(folder, record.trial, record.evals, "interrupted")
    one, two = gather(folder).groups
    assert one.noise is None
    assert two.noise is not None


def test_the_report_says_it_beside_its_times(folder, undrawn):
    gathered = gather(folder)
    assert not [c for c in all_caveats(gathered) if c.title == "Noise unknown"]
    page = reports.build(folder).read_text(encoding="utf-8")
    assert "times of equal trials: up to 1.50 times apart" in page
    assert "up to 1.50 times apart at N = 1 (2 pairs) and 1.25 times apart at N = 2" in page
    rows = pd.read_csv(folder / "tables" / "noise.csv")
    assert list(rows["ratio"].round(6)) == [1.5, 1.5, 0.8, 0.8]
    assert list(rows["ratio_to_target"].dropna().round(6)) == [1.5, 1.5, 0.8, 0.8]
    assert rows["weights_equal"].all()


def test_times_to_the_target_that_are_further_apart_than_whole_trainings_count(folder):
    """One evaluation came late in the twin, which made up for it before the end."""
    for record in store.read_trials(folder):
        hit = hit_bracket(record)
        if record.trial.twin and record.trial.ranks == 1 and hit:
            late = [msgspec.structs.replace(e, train_s=2 * e.train_s) if n == hit[1] else e
                    for n, e in enumerate(record.evals)]
            fixture.write(folder, record.trial, late, record.end.status, test=0.5)
    one, _ = gather(folder).groups
    assert one.noise.factor == pytest.approx(3.0)
    assert one.noise.pairs == 2


def test_without_pairs_the_noise_is_unknown(tmp_path, undrawn):
    gathered = gather(fixture.populate(tmp_path / "plain"))
    (caveat,) = [c for c in all_caveats(gathered) if c.title == "Noise unknown"]
    assert "N = 1 and 2" in caveat.text
    page = reports.build(tmp_path / "plain").read_text(encoding="utf-8")
    assert "equal trials: up to" not in page
