"""L-SR1: the subproblem against dense eigenvalues, the memory against dense updates."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench_apts.optimizers.apts.lsr1_hessian import LSR1Hessian, products, replay, rough
from bench_apts.optimizers.apts.obs import solve, spectrum

NUMBERS = st.integers(-4, 4).map(float)


def vectors(n, k):
    return st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=k, max_size=k).map(
        lambda rows: np.array(rows, dtype=float).reshape(k, n).T)


@st.composite
def models(draw):
    """γ, Φ with columns that may be zero or dependent, weights, a gradient, and a radius."""
    n, k = draw(st.integers(1, 6)), draw(st.integers(0, 5))
    columns = draw(vectors(n, k))
    copies = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=2))
    for one, other in copies:
        if one < k and other < k:
            columns[:, one] = -2 * columns[:, other]
    weights = np.array(draw(st.lists(NUMBERS, min_size=k, max_size=k)), dtype=float)
    base = draw(st.sampled_from([0.0, 0.25, 1.0, 3.0]))
    gradient = draw(vectors(n, 1))[:, 0] * draw(st.sampled_from([1e-3, 1.0, 1e3]))
    return base, columns, weights, gradient, draw(st.sampled_from([1e-3, 0.1, 1.0, 30.0]))


def solved(gram, weights, base, slopes, square, radius, dimension):
    """``scale``, the coefficients of the columns of Φ, and the multiplier, as numbers."""
    parts = spectrum(tensor(gram), tensor(weights))
    answer = solve(parts, tensor(base), parts.basis.T @ tensor(slopes), tensor(square),
                   tensor(radius), dimension)
    return answer.scale.item(), (parts.basis @ answer.along).numpy(), answer.multiplier.item()


def tensor(value):
    return torch.as_tensor(value, dtype=torch.float64)


def dense_minimum(matrix, gradient, radius):
    """The least value of the model over the ball, by bisection on a dense eigendecomposition."""
    values, vectors_ = np.linalg.eigh(matrix)
    along = vectors_.T @ gradient

    def at(shift):
        denominators = values + shift
        step = np.zeros_like(along)
        np.divide(-along, denominators, out=step, where=np.abs(denominators) > 1e-13)
        return step

    low = max(0.0, -values[0])
    high = low + np.linalg.norm(along) / radius + 1e-300
    hard = np.abs(along[values + low < 1e-12]).sum() < 1e-12 * (1 + np.linalg.norm(along))
    if (low > 0 or values[0] >= 0) and hard and np.linalg.norm(at(low)) <= radius:
        step = at(low)
        if low > 0:
            step[0] = math.sqrt(max(0.0, radius**2 - step @ step))
    else:
        for _ in range(300):
            middle = (low + high) / 2
            if np.linalg.norm(along / (values + middle)) > radius:
                low = middle
            else:
                high = middle
        step = at(high)
    return along @ step + 0.5 * (values * step) @ step


@settings(deadline=None, max_examples=300)
@given(models())
@example((0.0, np.zeros((2, 0)), np.zeros(0), np.array([3.0, 4.0]), 1.0))
@example((1.0, np.array([[1.0], [0.0]]), np.array([-3.0]), np.array([0.0, 1.0]), 2.0))  # hard
@example((1.0, np.eye(2), np.array([-3.0, -3.0]), np.zeros(2), 2.0))  # a saddle, no slope
@example((0.0, np.array([[1.0], [0.0]]), np.array([-1.0]), np.array([1e-9, 1.0]), 30.0))
def test_the_subproblem_is_solved_to_optimality(model):
    base, columns, weights, gradient, radius = model
    n = len(gradient)
    matrix = base * np.eye(n) + columns @ np.diag(weights) @ columns.T
    slope, along, sigma = solved(columns.T @ columns, weights, base, columns.T @ gradient,
                                 gradient @ gradient, radius, n)
    step = -slope * gradient + columns @ along
    scale = 1 + np.abs(matrix).max() + np.abs(gradient).max() / radius
    length = np.linalg.norm(step)
    assert length <= radius * (1 + 1e-6)
    assert sigma >= 0
    # (B + σI)p = −g, σ(δ − ‖p‖) = 0 and B + σI ⪰ 0 (Moré, Sorensen) make a global minimiser.
    np.testing.assert_allclose(matrix @ step + sigma * step, -gradient, rtol=0,
                               atol=1e-6 * scale * radius)
    assert sigma * (radius - length) <= 1e-6 * scale * radius
    assert np.linalg.eigvalsh(matrix + sigma * np.eye(n))[0] >= -1e-7 * scale
    value = gradient @ step + 0.5 * step @ matrix @ step
    assert value <= 1e-6 * scale * radius**2
    assert value == pytest.approx(dense_minimum(matrix, gradient, radius), rel=1e-5,
                                  abs=1e-6 * scale * radius**2)


def test_known_subproblems():
    nothing = np.zeros(0)
    # Without curvature: to the boundary along the gradient.
    scale, _, _ = solved(np.zeros((0, 0)), nothing, 0.0, nothing, 25.0, 2.0, 2)
    assert scale == pytest.approx(0.4)
    # B = I: the Newton step within the ball.
    scale, _, sigma = solved(np.zeros((0, 0)), nothing, 1.0, nothing, 25.0, 9.0, 2)
    assert (scale, sigma) == (1.0, 0.0)
    # The hard case: B = diag(−2, 1), g = (0, 1), δ = 2: σ = 2, p = (√(4 − 1/9), −1/3).
    scale, along, sigma = solved(np.eye(1), np.array([-3.0]), 1.0, np.zeros(1), 1.0, 2.0, 2)
    assert sigma == pytest.approx(2.0)
    assert scale == pytest.approx(1 / 3)
    assert abs(along[0]) == pytest.approx(math.sqrt(4 - 1 / 9))


@pytest.mark.parametrize("slope", [1e-290, 1e-150, 1e-30, 1e-16, 1e-9, 1e-3])
@pytest.mark.parametrize("missing", [0.9, 1e-3, 1e-8])
def test_near_the_hard_case_the_step_still_reaches_the_boundary(slope, missing):
    """B = diag(−2, 1): nearly all of the length comes from the second coordinate."""
    radius = (1 + missing) / 3
    _, along, sigma = solved(np.eye(2), np.array([-3.0, 0.0]) + 1e-300, 1.0,
                             np.array([slope, 1.0]), 1.0 + slope**2, radius, 2)
    first, second = along
    assert sigma == pytest.approx(2.0, rel=max(1e-9, 4 * slope / missing))
    assert math.hypot(first, second) == pytest.approx(radius, rel=1e-12)
    assert second == pytest.approx(-1 / (1 + sigma), rel=1e-9)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 10), st.integers(-12, 12))
def test_the_step_is_as_long_as_the_radius_over_many_powers_of_ten(seed, k, power):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal(k) * 10.0 ** rng.integers(-6, 6, k)
    slopes = rng.standard_normal(k) * 10.0 ** rng.integers(-12, 6, k)
    square, radius = slopes @ slopes * 2, 10.0**power
    scale, along, sigma = solved(np.eye(k), weights, 0.0, slopes, square, radius, k + 1)
    inside = along - scale * slopes
    length = math.hypot(np.linalg.norm(inside), scale * math.sqrt(square / 2))
    assert length <= radius * (1 + 1e-12)
    assert sigma == 0 or length == pytest.approx(radius, rel=1e-9)


# --- the memory ---------------------------------------------------------------------------------


def dense_updates(pairs, base, n):
    """Ordinary SR1 with the skipping rule, on a matrix."""
    matrix = base * np.eye(n)
    for s, y in pairs:
        rest = y - matrix @ s
        slope = s @ rest
        if (np.linalg.norm(rest) > 1e-6 * np.linalg.norm(y)
                and abs(slope) >= 1e-8 * np.linalg.norm(s) * np.linalg.norm(rest) > 0):
            matrix = matrix + np.outer(rest, rest) / slope
    return matrix


@settings(deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(
    st.integers(1, 4).flatmap(lambda k: st.tuples(vectors(n, k), vectors(n, k))),
    st.sampled_from([0.25, 1.0]))))
def test_replayed_updates_are_those_of_a_dense_matrix(case):
    (steps, changes), base = case
    n = len(steps)
    coefficients, weights = (found.numpy() for found in replay(
        tensor(steps.T @ steps), tensor(steps.T @ changes), tensor(changes.T @ changes),
        tensor(base)))
    columns = (changes - base * steps) @ coefficients
    matrix = base * np.eye(n) + columns @ np.diag(weights) @ columns.T
    expected = dense_updates(zip(steps.T, changes.T, strict=True), base, n)
    scale = 1 + np.abs(expected).max()
    if scale < 1e4:  # beyond it one of the denominators was all rounding
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("places", [[], [2], [0, 2]])
def test_products_sum_in_double_precision_over_blocks(places):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 200_000, generator=generator)
    vector = torch.randn(200_000, generator=generator)
    every = torch.cat([rows, vector[None]]).double()
    expected = every @ every[[*places, 3]].T
    found = products(rows, torch.tensor(places, dtype=torch.int64), vector)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)
    expected = every[:3] @ every[3]
    torch.testing.assert_close(rough(rows, vector), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(rough(rows.double(), vector.double()), expected)


def quadratic(seed, n, lowest=-1.0):
    """A symmetric matrix with eigenvalues from ``lowest`` to 4."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return rng, torch.from_numpy(rotation @ np.diag(np.linspace(lowest, 4, n)) @ rotation.T)


def curvature(model, step):
    """pᵀBp by way of the reduction."""
    return -2 * model.reduction(torch.zeros_like(step), step).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_memory_learns_the_curvature_along_what_it_has_seen(dtype):
    rng, matrix = quadratic(1, 8)
    model = LSR1Hessian(torch.zeros(8, dtype=dtype), memory=3)
    zero = torch.zeros(8, dtype=dtype)
    seen = []
    for _ in range(7):  # more than it holds
        s = torch.from_numpy(rng.standard_normal(8))
        model.learn(s.to(dtype), (matrix @ s).to(dtype), zero)
        seen.append(s)
    model.step(torch.ones(8, dtype=dtype), tensor(1.0), "l2")
    for s in seen[-3:]:  # exact for a quadratic: SR1 is hereditary
        assert curvature(model, s.to(dtype)) == pytest.approx((s @ matrix @ s).item(), rel=1e-4)


def test_without_pairs_it_is_first_order():
    model = LSR1Hessian(torch.zeros(2), 2)
    torch.testing.assert_close(model.step(torch.tensor([3.0, -4.0]), tensor(2.0), "l2"),
                               torch.tensor([-1.2, 1.6]))
    torch.testing.assert_close(model.step(torch.tensor([3.0, -4.0]), tensor(2.0), "linf"),
                               torch.tensor([-1.6970563, 2.0]))


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["l2", "linf"]),
       st.sampled_from([1e-3, 0.1, 1.0, 10.0]), st.integers(0, 5))
def test_steps_stay_within_the_radius_and_lower_the_model(seed, norm, radius, pairs):
    rng, matrix = quadratic(seed, 6)
    model, zero = LSR1Hessian(torch.zeros(6, dtype=torch.float64), 3), torch.zeros(6)
    for _ in range(pairs):
        s = torch.from_numpy(rng.standard_normal(6))
        model.learn(s, matrix @ s, zero)
    gradient = torch.from_numpy(rng.standard_normal(6))
    step = model.step(gradient, tensor(radius), norm)
    order = 2 if norm == "l2" else math.inf
    assert torch.linalg.vector_norm(step, order) <= radius * (1 + 1e-12)
    assert model.reduction(gradient, step) > 0
    first = -gradient / torch.linalg.vector_norm(gradient) * radius
    if norm == "l2":  # no step in the ball is better
        assert model.reduction(gradient, step) >= model.reduction(gradient, first) - 1e-12


# --- the defects of the public reference that concern it ---------------------------------------


@pytest.mark.parametrize("pairs", [
    [([1, 0, 0], [2, 0, 0]), ([1, 0, 0], [2, 0, 0])],  # the same pair again
    [([1, 0, 0], [2, 0, 0]), ([2, 0, 0], [4, 0, 0])],  # a multiple of it
    [([1, 0, 0], [0, 1, 0])],  # no curvature along the step
    [([0, 0, 0], [1, 0, 0])],  # no step
    [([1, 0, 0], [0, 0, 0])],  # no change
    [([0, 0, 0], [0, 0, 0])],
    [([1, 0, 0], [1, 0, 0]), ([0, 1, 0], [0, 1, 0]), ([1, 1, 0], [1, 1, 0])],
    [([1, 0, 0], [math.nan, 0, 0])],
    [([1, 0, 0], [1, 2, 0]), ([1, 0, 0], [math.inf, 0, 0]), ([0, 1, 0], [2, 5, 0])],
    [([1e-20, 0, 0], [1e-20, 0, 0])],
    [([1e15, 0, 0], [1e15, 1, 0])],
])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_dependent_or_senseless_pairs_never_fail(pairs, norm):
    for dtype in (torch.float32, torch.float64):
        model = LSR1Hessian(torch.zeros(3, dtype=dtype), 3)
        zero, gradient = torch.zeros(3, dtype=dtype), torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
        for s, y in pairs * 2:
            model.learn(torch.tensor(s, dtype=dtype), torch.tensor(y, dtype=dtype), zero)
            step = model.step(gradient, torch.tensor(0.5, dtype=dtype), norm)
            assert step.isfinite().all()
            assert torch.linalg.vector_norm(step, 2 if norm == "l2" else math.inf) <= 0.5 + 1e-6
            assert model.reduction(gradient, step) > 0


def test_a_zero_gradient_leaves_a_saddle_along_negative_curvature():
    model = LSR1Hessian(torch.zeros(2, dtype=torch.float64), 2)
    model.learn(tensor([1.0, 0.0]), tensor([-3.0, 0.0]), tensor([0.0, 0.0]))
    zero = tensor([0.0, 0.0])
    step = model.step(zero, tensor(0.5), "l2")
    assert step.abs().tolist() == pytest.approx([0.5, 0.0])
    assert model.reduction(zero, step) > 0


def test_a_gradient_that_is_not_finite_gives_a_step_that_nobody_accepts():
    model = LSR1Hessian(torch.zeros(2), 2)
    step = model.step(torch.tensor([math.nan, 1.0]), torch.tensor(1.0), "l2")
    assert not model.reduction(torch.tensor([math.nan, 1.0]), step) > 0
    assert model.step(torch.tensor([3.0, 4.0]), torch.tensor(1.0), "l2").isfinite().all()


class OnOneDevice(TorchDispatchMode):
    """Refuses operations that read a value or touch a tensor of another device."""

    def __init__(self, device):
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += 1
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor):
                assert leaf.device.type == self.device, function
        assert function is not torch.ops.aten._local_scalar_dense.default
        return result


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_value_leaves_the_device(device, norm):
    """On ``meta`` there are none: whoever asked for one, or for a shape, would get an error."""
    vector = torch.ones(5, device=device)
    radius = torch.ones((), device=device)
    model = LSR1Hessian(vector, 3)
    with OnOneDevice(device) as mode:
        for _ in range(5):
            step = model.step(vector, radius, norm)
            model.reduction(vector, step)
            model.learn(step, vector, vector)
        model.learn(step, vector, vector)
        other = LSR1Hessian(vector, 3)
        other.load_state_dict(model.state_dict())
        other.step(vector, radius, norm)
    assert mode.count > 100


def test_a_pair_that_is_left_out_displaces_none_and_any_other_the_oldest():
    model, zero = LSR1Hessian(torch.zeros(4, dtype=torch.float64), 2), torch.zeros(4)
    axes = torch.eye(4, dtype=torch.float64)
    bad = [(axes[0], 2 * axes[0]), (axes[1], 3 * axes[1]), (axes[3], axes[2]),
           (axes[3], math.nan * axes[3]), (0 * axes[0], axes[0])]
    for number, rate in ((0, 2.0), (1, 3.0)):
        model.learn(axes[number], rate * axes[number], zero)
    for s, y in bad * 2:
        model.learn(s, y, zero)
    model.step(axes[3], tensor(1.0), "l2")
    assert [curvature(model, axis) for axis in axes] == pytest.approx([2, 3, 1, 1])  # γ = 1
    model.learn(axes[2], 5 * axes[2], zero)
    model.step(axes[3], tensor(1.0), "l2")
    assert [curvature(model, axis) for axis in axes] == pytest.approx([1.5, 3, 5, 1.5])


def test_state_round_trip_is_exact_also_with_a_pair_in_waiting():
    rng, matrix = quadratic(3, 5)

    def fresh():
        return LSR1Hessian(torch.zeros(5, dtype=torch.float64), 2)

    def some(count, model):
        return [model.learn(s, matrix @ s, torch.zeros(5))
                for s in itertools.islice(steps, count)]

    steps = iter(torch.from_numpy(rng.standard_normal((20, 5))))
    one, other = fresh(), fresh()
    some(5, one)
    other.load_state_dict(one.state_dict())
    gradient = torch.from_numpy(rng.standard_normal(5))
    assert torch.equal(one.step(gradient, tensor(1.0), "l2"),
                       other.step(gradient, tensor(1.0), "l2"))
    for s in itertools.islice(steps, 3):
        for model in (one, other):
            model.learn(s, matrix @ s, torch.zeros(5))
        assert torch.equal(one.step(s, tensor(0.3), "l2"), other.step(s, tensor(0.3), "l2"))
    with pytest.raises(ValueError, match="another shape"):
        LSR1Hessian(torch.zeros(5, dtype=torch.float64), 4).load_state_dict(one.state_dict())
