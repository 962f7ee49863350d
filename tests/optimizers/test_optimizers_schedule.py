"""Schedules and fused kernels of the tuned baselines, by hand; tuning chooses a schedule."""

import pytest
import torch
from baseline_task import Course
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.optimizers import adam, fused_kernels, schedule, sgd
from bench_apts.plugins import registry


@pytest.mark.parametrize(("values", "factors"), [
    ({}, [1.0, 0.853553, 0.5, 0.146447]),
    ({"schedule": "linear-half"}, [1.0, 1.0, 1.0, 0.5]),
    # A quarter of the budget is one step: half of the way in the first, all in the second.
    ({"schedule": "linear-half", "warmup": 0.25}, [0.5, 1.0, 1.0, 0.5]),
    ({"schedule": "cosine", "warmup": 0.25}, [0.5, 1.0, 0.75, 0.25]),
])
def test_factors_by_hand(values, factors):
    find = schedule.find(values)
    assert [find(step, 4) for step in range(4)] == pytest.approx(factors, abs=1e-6)


@given(st.sampled_from(["cosine", "linear-half"]), st.floats(0, 0.5), st.integers(1, 500))
def test_factors_rise_to_at_most_one_and_fall_to_almost_nothing(name, warmup, steps):
    find = schedule.find({"schedule": name, "warmup": warmup})
    factors = [find(step, steps) for step in range(steps + 3)]
    top = factors.index(max(factors))
    assert 0 <= min(factors) <= max(factors) <= 1
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("backend", [adam.backend, sgd.backend])
def test_the_learning_rate_follows_the_schedule_and_wide_tuning_chooses_it(backend):
    course = Course(backend, steps=4, schedule="linear-half", warmup=0.25)
    rates = []
    for _ in range(4):
        course.step()
        rates.append(course.stepper.optimizer.param_groups[0]["lr"])
    peak = backend.hyperparameters["lr"].default
    assert rates == pytest.approx([0.5 * peak, peak, peak, 0.5 * peak])
    assert {"schedule", "warmup"} <= set(backend.searched(space="wide"))
    assert set(backend.searched()) == {"lr"}


@pytest.mark.parametrize("name", [
    "adam", "sgd", "ddp-fp16", "zero-redundancy", "diloco", "local-sgd", "zero1", "lion", "muon"])
def test_who_shares_the_knobs_of_adam_or_sgd_has_a_schedule(name):
    assert {"schedule"} <= set(registry.optimizer(name).backend.hyperparameters)


@pytest.mark.parametrize(("backend", "make"), [
    (adam.backend, lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)),
    (sgd.backend, lambda parameters: torch.optim.SGD(
        parameters, lr=0.05, momentum=0.9, nesterov=True)),
])
def test_fused_kernels_take_the_steps_of_the_plain_ones(backend, make):
    course = Course(backend, steps=10)
    optimizer = course.stepper.optimizer
    assert optimizer.param_groups[0]["fused"]
    plain = [p.detach().clone().requires_grad_() for p in course.model.parameters()]
    reference = make(plain)
    for _ in range(10):
        course.step()
        for mine, theirs in zip(course.model.parameters(), plain, strict=True):
            theirs.grad = mine.grad.clone()
        reference.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        reference.step()
    for mine, theirs in zip(course.model.parameters(), plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_fused_kernels_are_left_out_where_they_do_not_fit():
    assert fused_kernels.take([torch.ones(2)]) is True
    assert fused_kernels.take([torch.ones(2), torch.ones(2, dtype=torch.complex64)]) is None
    assert fused_kernels.take([torch.ones(2, device="meta")]) is None
