"""The baselines: exact bytes, any number of ranks, states taken back, missing packages."""

import sys

import numpy as np
import pytest
from baseline_task import Course

from bench_apts.optimizers import adam, nadamw, prodigy, schedule_free

BACKENDS = {each.name: each for each in (
    adam.default, nadamw.backend, nadamw.ordered, schedule_free.backend, prodigy.backend)}
PRELOAD = ["baseline_task"]
STEPS, MORE = 6, 5


def course(ranks, names):
    return {name: course_of(ranks, BACKENDS[name]) for name in names}


def course_of(ranks, backend):
    mine = Course(backend, ranks.rank, ranks.size, steps=STEPS + MORE)
    losses, traffic = [], []
    for number in range(STEPS):
        ranks.meter.phase = f"{backend.name} {number}"
        losses.append(float(mine.step().loss))
        traffic.append({name: (t.calls, t.payload_bytes) for name, t
                        in ranks.meter.snapshot().get(ranks.meter.phase, {}).items()})
    ranks.meter.phase = "eval"
    evaluated = mine.evaluated()
    ends = []
    state, place = mine.stepper.state_dict(), mine.generator.get_state()
    for _ in range(2):
        for _ in range(MORE):
            mine.step()
        ends.append((mine.weights(), mine.evaluated()))
        mine.stepper.load_state_dict(state)
        mine.generator.set_state(place)
    return {"n": mine.n, "losses": losses, "traffic": traffic, "evaluated": evaluated,
            "ends": ends}


@pytest.fixture(scope="module")
def courses(on_ranks):
    names = tuple(name for name, backend in BACKENDS.items() if not backend.unavailable())
    runs = {size: on_ranks(course, size, names) for size in (1, 2)}

    def of(name, size):
        if name not in names:
            pytest.skip(f"{name}: {BACKENDS[name].unavailable()}")
        return [rank[name] for rank in runs[size]]

    return of


@pytest.mark.parametrize("name", BACKENDS)
def test_a_step_sends_the_gradient_once_and_nothing_else(courses, name):
    for rank in courses(name, 2):
        # DDP rebuilds its buckets in its second step.
        assert rank["traffic"][2:] == [{"all_reduce": (1, 4 * rank["n"])}] * (STEPS - 2)
    (alone,) = courses(name, 1)
    assert alone["traffic"] == [{}] * STEPS


@pytest.mark.parametrize("name", BACKENDS)
def test_the_number_of_ranks_changes_nothing_but_rounding(courses, name):
    (alone,), together = courses(name, 1), courses(name, 2)
    np.testing.assert_allclose(
        np.mean([rank["losses"] for rank in together], axis=0), alone["losses"], rtol=1e-5)
    np.testing.assert_array_equal(together[0]["evaluated"], together[1]["evaluated"])
    np.testing.assert_allclose(
        together[0]["evaluated"], alone["evaluated"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_state_taken_back_goes_on_bit_for_bit(courses, name, size):
    for rank in courses(name, size):
        first, second = rank["ends"]
        np.testing.assert_array_equal(first, second)
        assert np.abs(first[1] - rank["evaluated"]).max() > 1e-7  # it did go on


def test_adam_at_its_default_is_adam_without_tuning():
    plain, default = Course(adam.backend), Course(adam.default)
    for _ in range(5):
        plain.step()
        default.step()
    np.testing.assert_array_equal(plain.weights(), default.weights())
    assert adam.default.tuning_free
    assert adam.backend.searched()
    assert not adam.default.searched()


@pytest.mark.parametrize(("backend", "package"), [
    (schedule_free.backend, "schedulefree"), (prodigy.backend, "prodigyopt")])
def test_a_missing_package_makes_its_backend_unavailable(monkeypatch, backend, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert backend.unavailable() == (
        f"package {package} is not installed: pip install '{package}'")
