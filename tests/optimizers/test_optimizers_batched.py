"""Baselines that choose their minibatch: whole shares, a search over it, trials that use it."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core.errors import UserError
from bench_apts.core.spec import Entry, Study
from bench_apts.optimizers.batched import FACTORS, scaled
from bench_apts.plugins import registry
from bench_apts.study.plan import Plan

NAMES = ("adam-batch", "sgd-batch")


@given(st.integers(1, 4_096), st.sampled_from(FACTORS), st.integers(1, 64))
def test_shares_are_whole_and_as_near_as_they_can_be(batch, factor, ranks):
    found = scaled(batch, {"batch": factor}, ranks)
    assert found % ranks == 0
    assert found >= ranks
    assert abs(found - max(batch * factor, ranks)) <= ranks / 2 or found == ranks


@pytest.mark.parametrize("name", NAMES)
def test_the_search_is_that_of_the_optimizer_and_the_minibatch(name):
    backend = registry.optimizer(name).backend
    plain = registry.optimizer(name.removesuffix("-batch")).backend
    assert set(backend.searched()) == {*plain.searched(), "batch"}
    assert backend.configure({}) == plain.configure({}) | {"batch": 1.0}
    assert backend.minibatch(64, backend.configure({"batch": 2}), 2) == 128
    with pytest.raises(UserError, match=r"batch=3.*0\.5, 1\.0, 2\.0, 4\.0"):
        backend.configure({"batch": 3})


def test_tuning_trials_draw_minibatches_of_several_sizes():
    entry = Entry("adam-batch", "adam-batch")
    study = Study((registry.suite("digits"),), (entry,), (2,), 12, 1, 0, "cpu")
    prepared = {"digits": SimpleNamespace(sha256="d" * 64)}
    trials = Plan(study, prepared).tuning()
    assert len(trials) == 12
    assert {trial.batch_size for trial in trials} == {32, 64, 128, 256}
    assert all(trial.batch_size == 64 * trial.hyperparameters["batch"] for trial in trials)
