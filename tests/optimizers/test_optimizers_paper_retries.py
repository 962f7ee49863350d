"""Retries of the published APTS: outer iterations computed by hand, on one and more ranks."""

import math

import pytest
import torch
from torch import nn

from bench_apts.optimizers.apts import APTS, RankError
from bench_apts.optimizers.apts.acceptance import PaperSettings, paper_settings
from bench_apts.optimizers.presets import PRESETS
from bench_apts.plugins import registry


def parabola(start, slope=0.0):
    """A parameter at ``start`` with a closure over x²/2 + slope·x."""
    x = nn.Parameter(torch.tensor([start], dtype=torch.float64))

    def closure(backward):
        loss = 0.5 * x.square().sum() + slope * x.sum()
        if backward:
            loss.backward()
        return loss.detach()

    return x, closure


def test_the_global_pass_tries_again_half_as_far():
    # From x = 0.1 with Δ = 0.8: −0.8, −0.4 and −0.2 do not lower x²/2; −0.1 reaches 0.
    x, closure = parabola(0.1)
    opt = APTS([x], radius=0.8, local_iterations=0, retries=3)
    opt.step(closure)
    assert x.item() == pytest.approx(0, abs=1e-15)
    # Three refusals halve Δ to 0.1; ρ = ½ leaves it there.
    assert opt.radius == pytest.approx(0.1)
    assert opt.last["rho"] == pytest.approx(0.5)
    assert (opt.last["forwards"], opt.last["backwards"]) == (1 + 4, 1)


def test_without_enough_retries_the_step_is_refused():
    x, closure = parabola(0.1)
    opt = APTS([x], radius=0.8, local_iterations=0, retries=2)
    opt.step(closure)
    assert (x.item(), opt.last["accepted"]) == (0.1, False)
    assert opt.radius == pytest.approx(0.1)  # halved by each of three refusals
    assert opt.last["forwards"] == 1 + 3


def test_the_global_pass_stops_at_the_smallest_radius_and_keeps_no_rise():
    x, closure = parabola(0.1)
    opt = APTS([x], radius=0.8, min_radius=0.3, local_iterations=0, retries=9)
    opt.step(closure)  # −0.8, −0.4, −0.3, and no shorter one is allowed
    assert (x.item(), opt.last["accepted"], opt.radius) == (0.1, False, 0.3)
    assert opt.last["forwards"] == 1 + 3


def test_a_loss_that_is_not_finite_is_tried_again_nearer_by():
    x = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))

    def closure(backward):
        if backward:
            x.sum().backward()
        value = x.detach().sum()
        return value if value > -0.3 else value * math.inf

    opt = APTS([x], radius=1.0, local_iterations=0, retries=2)
    opt.step(closure)
    assert x.item() == -0.25
    assert opt.last["accepted"]


def test_an_outer_iteration_with_retries_in_both_phases_by_hand():
    # x²/2 from 0.3, Δ = 0.8, H = 1: the local trial −0.8 is refused, −0.4 gains 0.04, and as one
    # subdomain's model is exact ρ = 1 and Δ = 1.6. From −0.1 the global pass tries 1.6, 0.8, 0.4
    # and 0.2 in vain, and 0.1 reaches 0 with ρ = ½.
    x, closure = parabola(0.3)
    opt = APTS([x], radius=0.8, local_iterations=1, retries=9)
    opt.step(closure)
    assert opt.last["rho"] == pytest.approx(1.0)
    assert opt.last["predicted_reduction"] == pytest.approx(0.04)
    assert opt.last["global_rho"] == pytest.approx(0.5)
    assert x.item() == pytest.approx(0, abs=1e-15)
    assert opt.radius == pytest.approx(0.1)
    assert (opt.last["forwards"], opt.last["backwards"]) == (1 + 2 + 1 + 5, 2)


def both(ranks, retries):
    """x²/2 ± 0.1x: the ranks' local minima are at ∓0.1, the mean's is at 0."""
    x, closure = parabola(0.3, slope=0.1 if ranks.rank else -0.1)
    opt = APTS([x], radius=1.6, local_iterations=1, retries=retries)
    opt.step(closure)
    return x.item(), dict(opt.last)


def test_ranks_retry_alone_in_the_local_phase_and_together_in_the_global_pass(on_ranks):
    # With the correction both local objectives are x²/2 of displacements from 0.3, and Δ/2 = 0.8:
    # as above each rank goes −0.4 with a gain of 0.04. The sum, −0.8, ends at −0.5: the loss rises
    # from 0.045 to 0.125, ρ = −1, Δ = 0.8. The global pass tries −0.8 in vain; −0.4 ends at −0.1.
    for x, last in on_ranks(both, 2, 9):
        assert last["rho"] == pytest.approx(-1)
        assert not last["accepted"]
        assert x == pytest.approx(-0.1, abs=1e-15)
        assert last["global_rho"] == pytest.approx(1 / 3)
        assert last["radius"] == pytest.approx(0.4)
        assert (last["forwards"], last["backwards"]) == (1 + 2 + 1 + 2, 2)
        # A float for the mean number of local passes, and one per global retry.
        assert (last["floats"], last["calls"]) == (3 * 1 + 4 + 1 + 1, 5)
        assert last["forwards_beyond"] == 0


def uneven(ranks, retries):
    """Local losses of which the steep one is overshot and the flat one is not."""
    steepness = 8.0 if ranks.rank else 0.5
    x = torch.nn.Parameter(torch.tensor([0.3], dtype=torch.float64))

    def closure(backward=True):
        loss = steepness * x.square().sum() / 2
        if backward:
            loss.backward()
        return loss.detach()

    opt = APTS([x], radius=1.6, local_iterations=1, retries=retries, consistency="value")
    opt.step(closure)
    return dict(opt.last)


def test_ranks_know_the_mean_of_their_passes(on_ranks):
    lasts = on_ranks(uneven, 2, 9)
    own = [last["forwards"] for last in lasts]
    assert own[0] != own[1]
    assert {last["forwards"] + last["forwards_beyond"] for last in lasts} == {sum(own) / 2}


def failing(ranks, call):
    """One rank's closure fails at each call in turn, where the other ones may be retrying."""
    x, closure = parabola(0.3, slope=0.1 if ranks.rank else -0.1)
    opt = APTS([x], radius=1.6, local_iterations=1, retries=9)
    calls = []

    def disturbed(backward):
        calls.append(backward)
        if ranks.rank == 1 and len(calls) == call:
            raise ZeroDivisionError("on purpose")
        return closure(backward)

    try:
        opt.step(disturbed)
        raised = None
    except RankError as error:
        raised = str(error)
    opt.step(closure)
    return raised, x.item(), opt.last["loss"]


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6])
def test_a_fault_among_retries_is_answered_by_all_alike(on_ranks, call):
    one, other = on_ranks(failing, 2, call)
    assert one == other
    assert one[0] == "the closure failed on rank 1"


def test_what_the_reference_did_in_addition_is_a_preset():
    settings = paper_settings("reference")
    assert settings == PaperSettings(retries=10, consistency="value", capped=False)
    assert paper_settings("reference", retries=1).retries == 1
    assert PaperSettings().retries == 0  # the cost model's
    with pytest.raises(ValueError, match="retries"):
        PaperSettings(retries=-1)


@pytest.mark.parametrize("name", ["apts-paper", "napts", "tr"])
def test_backends_know_the_reference(name):
    found = registry.optimizer(name).backend.configure({"preset": "reference"})
    for key, value in PRESETS["reference"].items():
        assert found.get(key, value) == value
    assert found["retries"] == 10
