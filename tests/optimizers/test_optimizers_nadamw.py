"""NAdamW: AlgoPerf's rule by hand, which is not torch's, and its warm-up."""

import math

import numpy as np
import pytest
import torch
from baseline_task import Course

from bench_apts.optimizers import nadamw
from bench_apts.optimizers.update_rules import NAdamW

SETTINGS = {"lr": 0.01, "betas": (0.93, 0.995), "weight_decay": 0.1}


def walk(make, gradients, start=(1.0, -2.0), **settings):
    """The weights after each step along given gradients, in double precision."""
    weights = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make([weights], **{**SETTINGS, **settings})
    rows = []
    for gradient in gradients:
        weights.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        rows.append(weights.tolist())
    return np.array(rows)


def by_hand(gradients, start=(1.0, -2.0)):
    """The rule as AlgoPerf writes it, one number at a time."""
    lr, (beta1, beta2), decay = SETTINGS["lr"], SETTINGS["betas"], SETTINGS["weight_decay"]
    columns = []
    for i, weight in enumerate(start):
        m = v = 0.0
        column = []
        for t, gradient in enumerate(gradients, 1):
            g = gradient[i]
            weight *= 1 - lr * decay
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g * g
            ahead = beta1 * m + (1 - beta1) * g
            denominator = math.sqrt(v) / math.sqrt(1 - beta2**t) + 1e-8
            weight -= lr / (1 - beta1**t) * ahead / denominator
            column.append(weight)
        columns.append(column)
    return np.array(columns).T


def noise(steps):
    return np.random.default_rng(0).normal(size=(steps, 2)).tolist()


def test_the_rule_is_that_of_algoperf():
    np.testing.assert_allclose(walk(NAdamW, noise(20)), by_hand(noise(20)), rtol=1e-12)


def test_steps_along_a_constant_gradient_have_these_lengths():
    rows = walk(NAdamW, [[3.0, -0.5]] * 4, start=(0.0, 0.0), weight_decay=0.0)
    # m = (1 − β₁ᵗ) g and v̂ = g²: û/√v̂ is (1 − β₁ᵗ⁺¹) / (1 − β₁ᵗ), towards the gradient's sign.
    lengths = [0.01 * (1 - 0.93 ** (t + 1)) / (1 - 0.93**t) for t in range(1, 5)]
    np.testing.assert_allclose(rows[:, 0], -np.cumsum(lengths), rtol=1e-7)
    np.testing.assert_allclose(rows[:, 1], np.cumsum(lengths), rtol=1e-7)


@pytest.mark.parametrize("momentum_decay", [0.0, 0.004, 1e6])
def test_no_setting_of_torch_gives_this_rule(momentum_decay):
    theirs = walk(torch.optim.NAdam, noise(20), decoupled_weight_decay=True,
                  momentum_decay=momentum_decay)
    assert np.abs(theirs - by_hand(noise(20))).max() > 1e-3


def test_parameters_without_a_gradient_stay_and_keep_their_own_count():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = NAdamW([first, second], **SETTINGS)
    optimizer.step()
    assert torch.equal(first, torch.ones(2))
    for late in (False, True):
        first.grad = torch.full((2,), 0.5)
        second.grad = torch.full((2,), 0.5) if late else None
        optimizer.step()
        assert torch.equal(second, torch.ones(2)) is not late
    assert [optimizer.state[p]["step"] for p in (first, second)] == [2, 1]


def test_the_learning_rate_warms_up_and_falls_to_zero():
    course = Course(nadamw.ordered, steps=100)
    (group,) = course.stepper.optimizer.param_groups
    peak, rates = group["lr"], []
    for _ in range(100):
        course.step()
        rates.append(group["lr"] / peak)
    # A tenth of the budget in equal strides, then half a cosine over the rest.
    np.testing.assert_allclose(rates[:11], np.arange(1, 12) / 11, rtol=1e-12)
    np.testing.assert_allclose(
        rates[10:], (1 + np.cos(np.pi * np.arange(90) / 90)) / 2, rtol=1e-9)


def test_the_list_ends_with_the_frozen_configuration():
    frozen = nadamw.backend.configure({})
    assert frozen == nadamw.FROZEN
    assert nadamw.backend.tuning_free
    assert len(nadamw.LIST) == 5
    assert nadamw.LIST[4] == frozen
    assert nadamw.LIST[2] == nadamw.LIST[0] == nadamw.ordered.configure({})
    assert frozen["beta1"] == pytest.approx(0.9326607, abs=1e-7)
