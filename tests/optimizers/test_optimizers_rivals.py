"""Schedule-Free AdamW and Prodigy: their authors' packages do here what their papers say."""

import itertools
import math

import numpy as np
import pytest
import torch
from baseline_task import Course, Gradients

from bench_apts.optimizers import prodigy, schedule_free
from bench_apts.optimizers.schedule import cosine

STEPS = 12


def schedule_free_by_hand(steps, warmup_steps):
    """x and y after each step, with x, y and z all at hand, as the paper has them."""
    gradients = Gradients(schedule_free.backend)
    x = z = gradients.course.weights()
    v, weights, rows = np.zeros_like(z), 0.0, []
    for t in range(1, steps + 1):
        y = 0.1 * z + 0.9 * x
        g = gradients.at(y)
        v = 0.999 * v + 0.001 * g**2
        lr = 0.0025 * min(1.0, t / warmup_steps if warmup_steps else 1.0)
        z = z - lr * g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        weights += lr**2
        share = lr**2 / weights
        x = (1 - share) * x + share * z
        rows.append((x, 0.1 * z + 0.9 * x))
    return rows


@pytest.mark.parametrize(("warmup", "warmup_steps"), [(0.0, 0), (0.04, 4)])
def test_schedule_free_trains_at_y_and_is_evaluated_at_x(warmup, warmup_steps):
    pytest.importorskip("schedulefree")
    course = Course(schedule_free.backend, dtype=torch.float64, warmup=warmup)
    for x, y in schedule_free_by_hand(STEPS, warmup_steps):
        course.step()
        np.testing.assert_allclose(course.weights(), y, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(course.evaluated(), x, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(course.weights(), course.evaluated())
    assert np.abs(x - y).max() > 1e-4  # so that the two cannot be taken for one another


def test_evaluations_change_nothing_but_rounding():
    pytest.importorskip("schedulefree")
    seldom, often = (Course(schedule_free.backend, dtype=torch.float64) for _ in range(2))
    for _ in range(STEPS):
        seldom.step()
        often.step()
        often.evaluated()
    np.testing.assert_allclose(often.evaluated(), seldom.evaluated(), rtol=1e-9, atol=1e-12)


def test_a_state_taken_between_evaluations_needs_no_evaluation_to_go_on():
    pytest.importorskip("schedulefree")
    course, other = Course(schedule_free.backend), Course(schedule_free.backend)
    for _ in range(3):
        course.step()
    other.stepper.load_state_dict(course.stepper.state_dict())
    other.generator.set_state(course.generator.get_state())
    for each in (course, other):
        each.step()
    np.testing.assert_array_equal(course.weights(), other.weights())
    np.testing.assert_array_equal(course.evaluated(), other.evaluated())


def prodigy_by_hand(steps, horizon):
    """Weights and d after each step: the paper's version of Adam, its β₃ being √β₂.

    As in the authors' code, the factor 1 − β₃ is left out of both r and s, and beside ε stands the
    new d.
    """
    gradients = Gradients(prodigy.backend)
    start = w = gradients.course.weights()
    m, v, s = (np.zeros_like(w) for _ in range(3))
    d, r, rows = 1e-6, 0.0, []
    beta3 = math.sqrt(0.999)
    for step in range(steps):
        lr, g = cosine(step, horizon), gradients.at(w)
        m = 0.9 * m + 0.1 * d * g
        v = 0.999 * v + 0.001 * d**2 * g**2
        r = beta3 * r + lr * d**2 * (g @ (start - w))
        s = beta3 * s + lr * d**2 * g
        before, d = d, max(d, r / np.abs(s).sum())
        w = w - lr * before * m / (np.sqrt(v) + d * 1e-8)
        rows.append((w, d))
    return rows


def test_prodigy_estimates_the_distance_on_a_cosine_schedule():
    pytest.importorskip("prodigyopt")
    course = Course(prodigy.backend, steps=15, dtype=torch.float64)
    (group,) = course.stepper.optimizer.param_groups
    for w, d in prodigy_by_hand(STEPS, 15):
        course.step()
        np.testing.assert_allclose(course.weights(), w, rtol=1e-9, atol=1e-12)
        assert group["d"] == pytest.approx(d, rel=1e-9)
    assert group["d"] > 3e-6


def test_prodigy_stands_still_after_its_budget():
    pytest.importorskip("prodigyopt")
    course = Course(prodigy.backend, steps=2)
    places = [course.weights()]
    for _ in range(4):
        course.step()
        places.append(course.weights())
    moved = [not np.array_equal(*pair) for pair in itertools.pairwise(places)]
    assert moved == [True, True, False, False]
