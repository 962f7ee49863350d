"""The local phase: steps within the ball, true decreases, no pass more than promised."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.optimizers.apts.local_steps import clip_to_radius, descent, minimise

NORMS = ("l2", "linf")
FINITE = st.floats(-100, 100).map(lambda x: round(x, 6))
VECTORS = st.integers(1, 6).flatmap(lambda n: st.lists(FINITE, min_size=n, max_size=n))


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def length(step, norm):
    return torch.linalg.vector_norm(step, 2 if norm == "l2" else math.inf).item()


def test_descent_known_answers():
    gradient, radius = vector(3.0, -4.0, 0.0), vector(2.0)[0]
    torch.testing.assert_close(descent(gradient, radius, "l2"), vector(-1.2, 1.6, 0.0))
    torch.testing.assert_close(descent(gradient, radius, "linf"), vector(-2.0, 2.0, 0.0))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [1e-3, 2.0, 4.0, 100.0])  # 4 is the largest by default
def test_a_zero_gradient_gives_a_zero_step(norm, dtype, radius):
    zero = torch.zeros(3, dtype=dtype)
    assert torch.equal(descent(zero, torch.tensor(radius, dtype=dtype), norm), zero)


@given(VECTORS, st.floats(1e-3, 10), st.sampled_from(NORMS))
def test_descent_minimises_the_linear_model_over_the_ball(values, radius, norm):
    gradient = vector(*values)
    step = descent(gradient, vector(radius)[0], norm)
    assert length(step, norm) <= radius * (1 + 1e-12)
    # By duality the least value over the ball is −radius times the dual norm of the gradient.
    dual = length(gradient, "l2") if norm == "l2" else gradient.abs().sum().item()
    assert torch.dot(gradient, step).item() == pytest.approx(-radius * dual, rel=1e-9, abs=1e-12)


def test_within_known_answers():
    step = vector(3.0, -4.0)
    torch.testing.assert_close(clip_to_radius(step, 1.0, "l2"), vector(0.6, -0.8))
    torch.testing.assert_close(clip_to_radius(step, 3.5, "linf"), vector(3.0, -3.5))
    for norm in NORMS:
        assert torch.equal(clip_to_radius(step, 5.0, norm), step)
        assert torch.equal(clip_to_radius(torch.zeros(2), 1.0, norm), torch.zeros(2))


@given(VECTORS, st.floats(1e-3, 100), st.sampled_from(NORMS))
def test_within_stays_in_the_ball_and_keeps_what_is_inside(values, radius, norm):
    step = vector(*values)
    held = clip_to_radius(step, radius, norm)
    assert length(held, norm) <= radius * (1 + 1e-12)
    if length(step, norm) <= radius:
        torch.testing.assert_close(held, step, rtol=1e-15, atol=0)


class Quadratic:
    """½ θᵀAθ as the local phase sees it: a function of the displacement that counts its calls."""

    def __init__(self, matrix, start):
        self.matrix, self.start = matrix, start
        self.buffer = torch.zeros_like(start)
        self.forwards = self.backwards = 0

    def value(self, step):
        theta = self.start + step
        return 0.5 * torch.dot(theta, self.matrix @ theta)

    def gradient(self, step):
        return self.matrix @ (self.start + step)

    def __call__(self, step, backward):
        self.forwards += 1
        if backward:
            self.backwards += 1
            self.buffer.copy_(self.gradient(step))
        return self.value(step)

    def minimise(self, radius, iterations, norm, correction=None, corrects_gradient=True):
        zero = torch.zeros_like(self.start)
        correction = zero if correction is None else correction
        gradient = self.gradient(zero) + (correction if corrects_gradient else zero)
        return minimise(self, gradient, self.value(zero), self.buffer, correction,
                        corrects_gradient, radius, iterations, norm)


@st.composite
def quadratics(draw):
    """Symmetric matrices of any definiteness, since networks have no other."""
    start = draw(VECTORS)
    n = len(start)
    raw = torch.tensor(
        [[draw(st.floats(-5, 5)) for _ in range(n)] for _ in range(n)], dtype=torch.float64)
    return Quadratic((raw + raw.T) / 2, vector(*start))


@settings(deadline=None)
@given(quadratics(), st.floats(1e-3, 10), st.integers(1, 7), st.sampled_from(NORMS),
       st.data())
def test_the_local_phase_decreases_its_objective_within_the_ball(
        quadratic, radius, iterations, norm, data):
    n = len(quadratic.start)
    correction = vector(*data.draw(st.lists(st.floats(-5, 5), min_size=n, max_size=n)))
    corrects_gradient = data.draw(st.booleans())
    local = quadratic.minimise(radius, iterations, norm, correction, corrects_gradient)
    assert length(local.step, norm) <= radius * (1 + 1e-12)
    assert local.reduction >= 0
    zero = torch.zeros_like(local.step)
    true = quadratic.value(zero) - quadratic.value(local.step) - torch.dot(correction, local.step)
    scale = 1 + abs(quadratic.value(zero).item())
    assert local.reduction.item() == pytest.approx(true.item(), abs=1e-10 * scale)
    assert (quadratic.forwards, quadratic.backwards) == (iterations, iterations - 1)


@pytest.mark.parametrize("norm", NORMS)
def test_hand_computed_iterations(norm):
    # f(x) = x²/2 from x = 1 with radius 0.5; in one dimension the norms agree.
    quadratic = Quadratic(torch.eye(1, dtype=torch.float64), vector(1.0))
    # First: s = −0.5, f falls from 0.5 to 0.125, kept.
    local = quadratic.minimise(0.5, 1, norm)
    assert (local.step.item(), local.reduction.item()) == (-0.5, 0.375)
    # Further ones would leave the ball: they are cut back to where they start, so nothing moves.
    local = quadratic.minimise(0.5, 4, norm)
    assert (local.step.item(), local.reduction.item()) == (-0.5, 0.375)
    # From x = 0.1 with radius 0.8 the trials −0.8, −0.4 and −0.2 do not decrease f (the last
    # one would end at −0.1, where f is the same); −0.1 reaches the minimum.
    quadratic = Quadratic(torch.eye(1, dtype=torch.float64), vector(0.1))
    assert quadratic.minimise(0.8, 2, norm).step.item() == 0
    local = quadratic.minimise(0.8, 4, norm)
    assert local.step.item() == pytest.approx(-0.1, abs=1e-15)
    assert local.reduction.item() == pytest.approx(0.005, abs=1e-15)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("norm", NORMS)
def test_a_loss_that_is_not_finite_is_never_stepped_to(norm, value):
    gradient = vector(1.0, 2.0)

    def evaluate(step, backward):
        return vector(value)[0]

    local = minimise(evaluate, gradient, vector(1.0)[0], torch.zeros(2, dtype=torch.float64),
                     torch.zeros(2, dtype=torch.float64), True, 1.0, 3, norm)
    assert torch.equal(local.step, torch.zeros_like(gradient))
    assert local.reduction == 0


@pytest.mark.parametrize("norm", NORMS)
def test_the_correction_enters_the_first_gradient_and_the_later_ones(norm):
    # L_i = ⟨(1, 0), s⟩ corrected by (−1, 1) is ⟨(0, 1), s⟩: only the second coordinate moves.
    plane = Quadratic(torch.zeros(2, 2, dtype=torch.float64), vector(0.0, 0.0))
    plane.value = lambda step: step[0]
    plane.gradient = lambda step: vector(1.0, 0.0)
    correction = vector(-1.0, 1.0)
    for iterations in (1, 3):
        local = plane.minimise(0.5, iterations, norm, correction)
        torch.testing.assert_close(local.step, vector(0.0, -0.5))
        assert local.reduction == 0.5
    # Where it enters the values alone, the phase tries the rank's own direction (−1, 0), along
    # which the corrected objective does not change: nothing is gained, nothing is kept.
    local = plane.minimise(0.5, 3, norm, correction, corrects_gradient=False)
    assert torch.equal(local.step, vector(0.0, 0.0))


# --- retries ------------------------------------------------------------------------------------


def parabola(start):
    return Quadratic(torch.eye(1, dtype=torch.float64), vector(start))


def retried(quadratic, radius, iterations, norm, retries, **more):
    zero = torch.zeros_like(quadratic.start)
    return minimise(quadratic, quadratic.gradient(zero), quadratic.value(zero), quadratic.buffer,
                    zero, True, radius, iterations, norm, retries=retries, **more)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("retries", "step", "forwards"), [
    (0, 0.0, 1), (1, 0.0, 2), (2, 0.0, 3), (3, -0.1, 4), (9, -0.1, 4)])
def test_a_refused_trial_is_tried_again_half_as_far(norm, retries, step, forwards):
    # f(x) = x²/2 from x = 0.1: the trials −0.8, −0.4, −0.2 do not lower f, −0.1 is the minimum.
    quadratic = parabola(0.1)
    local = retried(quadratic, 0.8, 1, norm, retries)
    assert local.step.item() == pytest.approx(step, abs=1e-15)
    assert local.reduction.item() == pytest.approx(0.005 if step else 0.0, abs=1e-15)
    assert (quadratic.forwards, quadratic.backwards) == (forwards, 0)  # the last iteration's


@pytest.mark.parametrize("norm", NORMS)
def test_an_iteration_goes_on_from_the_radius_that_the_retries_left(norm):
    # From x = 0.28, radius 0.8: −0.8 is refused, −0.4 ends at −0.12 and gains 0.032 of the
    # predicted 0.112, ρ = 2/7: the radius stays 0.4. From −0.12, +0.4 is refused, and +0.2 ends
    # at 0.08.
    quadratic = parabola(0.28)
    local = retried(quadratic, 0.8, 2, norm, 9)
    assert local.step.item() == pytest.approx(-0.2, abs=1e-15)
    assert local.reduction.item() == pytest.approx(0.036, abs=1e-15)
    assert (quadratic.forwards, quadratic.backwards) == (2 + 2, 2)


@pytest.mark.parametrize("norm", NORMS)
def test_an_uncapped_phase_retries_from_the_radius_that_it_grew_to(norm):
    # From x = 1, radius 0.25: to 0.75 (ρ = 7/8, so 0.5), to 0.25 (predicted 0.375, gained 0.25:
    # ρ = 2/3), then −0.5 is refused (to −0.25, no less) and −0.25 reaches 0.
    quadratic = parabola(1.0)
    local = retried(quadratic, 0.25, 3, norm, 9, capped=False)
    assert local.step.item() == pytest.approx(-1.0, abs=1e-15)
    assert quadratic.forwards == 4


@pytest.mark.parametrize("norm", NORMS)
def test_retries_end_where_nothing_helps(norm):
    calls = []

    def evaluate(step, backward):
        calls.append(step.item())
        return vector(math.nan)[0]

    one = vector(1.0)
    local = minimise(evaluate, one, one[0], one.clone(), torch.zeros_like(one), True, 1.0, 2, norm,
                     retries=2)
    assert (local.step.item(), local.reduction.item()) == (0, 0)
    assert calls == [-1.0, -0.5, -0.25, -0.125, -0.0625, -0.03125]


@settings(deadline=None)
@given(quadratics(), st.floats(1e-3, 10), st.integers(1, 4), st.integers(0, 4),
       st.sampled_from(NORMS), st.booleans())
def test_retries_never_leave_the_ball_nor_lose_ground(
        quadratic, radius, iterations, retries, norm, capped):
    local = retried(quadratic, radius, iterations, norm, retries, capped=capped)
    if capped:
        assert length(local.step, norm) <= radius * (1 + 1e-12)
    assert local.reduction >= 0
    assert iterations <= quadratic.forwards <= iterations * (1 + retries)
