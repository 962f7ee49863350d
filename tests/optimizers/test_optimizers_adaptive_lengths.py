"""DoG and MoMo-Adam: their rules by hand, the average that is evaluated, the averaged loss."""

import numpy as np
import pytest
import torch
from baseline_task import Course, Gradients

from bench_apts.optimizers.adaptive_lengths import dog, momo
from bench_apts.optimizers.data_parallel import DataParallelStepper
from bench_apts.optimizers.update_rules import DoG, MomoAdam

PRELOAD = ["baseline_task"]
STEPS = 12


def dog_by_hand(steps):
    """The last iterate and the average after each step."""
    gradients = Gradients(dog)
    start = x = average = gradients.course.weights()
    squares, distance, rows = 0.0, 1e-6 * (1 + np.linalg.norm(start)), []
    for t in range(1, steps + 1):
        g = gradients.at(x)
        squares += g @ g
        distance = max(distance, np.linalg.norm(x - start))
        x = x - distance / np.sqrt(squares + 1e-8) * g
        average = average + 9 / (t + 8) * (x - average)
        rows.append((x, average))
    return rows


def test_dog_takes_the_steps_of_its_paper_and_is_evaluated_at_the_average():
    course = Course(dog, dtype=torch.float64)
    for x, average in dog_by_hand(STEPS):
        course.step()
        np.testing.assert_allclose(course.weights(), x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(course.evaluated(), average, rtol=1e-9, atol=1e-12)
    assert np.abs(x - average).max() > 1e-7


def test_evaluations_change_nothing_for_dog():
    seldom, often = Course(dog), Course(dog)
    for _ in range(STEPS):
        seldom.step()
        often.step()
        often.evaluated()
    np.testing.assert_array_equal(seldom.evaluated(), often.evaluated())


def test_dog_by_hand_on_one_number():
    x = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = DoG([x], lr=1.0, first=0.25, gamma=1.0)
    x.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()  # the first step has the length 0.25 (1 + 3), whatever the gradient
    assert x.item() == pytest.approx(2.0, abs=1e-8)
    optimizer.step()  # distance 1, squares 4 + 4
    assert x.item() == pytest.approx(2 - 2 / 8**0.5, abs=1e-8)
    optimizer.eval()  # 2, then two thirds of the way to the second
    assert x.item() == pytest.approx(2 - 2 / 3 * 2 / 8**0.5, abs=1e-8)


def momo_by_hand(steps, lr=0.01, decay=0.0, bound=0.0):
    gradients = Gradients(momo)
    x = gradients.course.weights()
    m, v, f, c, rows = np.zeros_like(x), np.zeros_like(x), 0.0, 0.0, []
    for t in range(1, steps + 1):
        loss, g = gradients.both(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        f, c = 0.9 * f + 0.1 * loss, 0.9 * c + 0.1 * (g @ x)
        scale, corrected = 1e-8 + np.sqrt(v / (1 - 0.999**t)), 1 - 0.9**t
        above = (1 + lr * decay) * (f - c - corrected * bound) + m @ x
        length = min(lr / corrected, max(above, 0) / (m @ (m / scale)))
        x = (x - length * m / scale) / (1 + lr * decay)
        rows.append((x, length < lr / corrected))
    return rows


@pytest.mark.parametrize("pinned", [{}, {"lr": 0.5, "weight_decay": 0.1, "lower_bound": 0.4}])
def test_momo_takes_the_steps_of_its_paper(pinned):
    course = Course(momo, dtype=torch.float64, **pinned)
    rows = momo_by_hand(STEPS, pinned.get("lr", 0.01), pinned.get("weight_decay", 0),
                        pinned.get("lower_bound", 0))
    for x, _ in rows:
        course.step()
        np.testing.assert_allclose(course.weights(), x, rtol=1e-7, atol=1e-10)
    assert any(limited for _, limited in rows) == bool(pinned)  # the model of the loss decides


def test_momo_stands_still_at_its_lower_bound():
    x = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = MomoAdam([x], lr=0.1, betas=(0.9, 0.999), lower_bound=2.0)
    for gradient in (3.0, 0.0):
        x.grad = torch.tensor([gradient])
        optimizer.step(torch.tensor(2.0))
    assert x.item() == 1.0


class OwnLoss(DataParallelStepper):
    """What a stepper would do that hands an optimizer the loss of its rank."""

    def _averaged(self, loss):
        return loss


def drift(ranks):
    found = {}
    for stepper in (DataParallelStepper, OwnLoss):
        course = Course(momo, ranks.rank, ranks.size)
        if stepper is OwnLoss:
            course.stepper.__class__ = OwnLoss
        # Where the model of the loss decides; else the loss does not matter.
        course.stepper.optimizer.param_groups[0]["lr"] = course.stepper.peaks[0] = 0.5
        for _ in range(STEPS):
            course.step()
        found[stepper.__name__] = course.weights()
    return found


def test_replicas_drift_apart_with_losses_of_their_own_and_not_with_the_average(on_ranks):
    one, other = on_ranks(drift, 2)
    np.testing.assert_array_equal(one["DataParallelStepper"], other["DataParallelStepper"])
    assert np.abs(one["OwnLoss"] - other["OwnLoss"]).max() > 1e-3
