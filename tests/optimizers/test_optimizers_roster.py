"""Lion, AdEMAMix, Adafactor, Muon: the settings that the package gets, by hand; frozen numbers."""

import math

import numpy as np
import pytest
import torch
from baseline_task import Course, Gradients, cnn

from bench_apts.optimizers import muon, rivals
from bench_apts.optimizers.schedule import cosine
from bench_apts.plugins import registry

pytest.importorskip("pytorch_optimizer")

STEPS, HORIZON = 10, 20

FROZEN = {
    "nadamw-2026": {"lr": 0.00190834618600756, "beta1": 1 - 0.09090652249,
                    "beta2": 0.998898321921855, "weight_decay": 0.08121616522670176,
                    "warmup": 0.1},
    "schedule-free-algoperf": {"lr": 0.0025, "beta1": 0.9, "beta2": 0.9955159689799007,
                               "weight_decay": 0.08121616522670176, "warmup": 0.02 * 0.75},
    "ademamix-frozen": {"lr": 2e-3, "beta1": 0.8, "beta2": 0.995, "beta3": 0.9995, "alpha": 8,
                        "weight_decay": 0.1, "warmup": 0.02, "clip": 0.5,
                        "growth_steps": 500_000},
    "lion-frozen": {"lr": 2e-4, "beta1": 0.95, "beta2": 0.98, "weight_decay": 0.5,
                    "warmup": 0.02},
    "muon-frozen": {"lr": 0.01, "momentum": 0.9, "ratio": 1, "weight_decay": 0, "warmup": 0.05},
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_ones_are_as_published_and_never_tuned(name):
    backend = registry.optimizer(name).backend
    assert backend.configure({}).items() >= FROZEN[name].items()
    assert backend.tuning_free
    assert not backend.searched(space="wide")


@pytest.mark.parametrize("name", ["muon", "soap", "ademamix", "lion", "adafactor", "nadamw-tuned"])
def test_tuned_ones_draw_the_learning_rate_and_more_in_the_wide_space(name):
    backend = registry.optimizer(name).backend
    adam = registry.optimizer("adam").backend
    assert set(backend.searched()) == {"lr"}
    assert set(backend.searched(space="wide")) > {"lr", "weight_decay"}
    for space in ("narrow", "wide"):
        ours, theirs = (each.searched(space=space)["lr"].search for each in (backend, adam))
        assert ours.high / ours.low == pytest.approx(theirs.high / theirs.low)


def walk(backend, rule, **pinned):
    """Take steps, and the same by hand: ``rule(t, g, lr, x)`` returns the weights after step t."""
    course = Course(backend, steps=HORIZON, dtype=torch.float64, **pinned)
    values = backend.configure(pinned)
    gradients = Gradients(backend)
    x = gradients.course.weights()
    for t in range(1, STEPS + 1):
        lr = values["lr"] * cosine(t - 1, HORIZON, values["warmup"])
        x = rule(t, gradients.at(x), lr, x)
        course.step()
        np.testing.assert_allclose(course.weights(), x, rtol=1e-9, atol=1e-12)


def test_lion_by_hand():
    m = 0.0

    def rule(t, g, lr, x):
        nonlocal m
        x = x * (1 - lr * 0.5) - lr * np.sign(0.95 * m + 0.05 * g)
        m = 0.98 * m + 0.02 * g
        return x

    walk(rivals.lion_frozen, rule, warmup=0.2)


@pytest.mark.parametrize("pinned", [{}, {"growth_steps": 0, "growth": 0.25, "clip": 0.01}])
def test_ademamix_by_hand(pinned):
    fast = slow = v = 0.0
    growth, clip = (5, 0.01) if pinned else (500_000, 0.5)

    def half_life(beta):
        return math.log(0.5) / math.log(beta) - 1

    def rule(t, g, lr, x):
        nonlocal fast, slow, v
        g = g * min(1, clip / (np.linalg.norm(g) + 1e-6))
        share = min(1, t / growth)
        between = (1 - share) * half_life(0.8) + share * half_life(0.9995)
        beta3 = 0.5 ** (1 / (between + 1))
        fast, slow = 0.8 * fast + 0.2 * g, beta3 * slow + (1 - beta3) * g
        v = 0.995 * v + 0.005 * g**2
        step = (fast / (1 - 0.8**t) + 8 * share * slow) / (np.sqrt(v / (1 - 0.995**t)) + 1e-8)
        return x * (1 - lr * 0.1) - lr * step

    walk(rivals.ademamix_frozen, rule, **pinned)


def test_adafactor_steps_by_the_learning_rate_that_is_given():
    course = Course(rivals.adafactor, dtype=torch.float64, beta1=0.0, lr=0.02)
    before = [p.detach().clone() for p in course.model.parameters()]
    course.step()
    for p, old in zip(course.model.parameters(), before, strict=True):
        # The first update of a vector is a sign, that of a matrix has a root mean square near 1.
        assert (p - old).square().mean().sqrt().item() == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize(("backend", "matrices"), [
    (muon.backend, {"0.weight", "2.weight", "4.weight"}),
    (muon.muon_frozen, {"0.weight", "2.weight", "4.weight", "6.weight"})])
def test_muon_takes_matrices_and_kernels_and_adamw_the_rest(backend, matrices):
    course = Course(backend, network=cnn, lr=0.02, warmup=0.0)
    names = {id(p): name for name, p in course.model.named_parameters()}
    parts = [{names[id(p)] for group in each.param_groups for p in group["params"]}
             for each in course.stepper.optimizers]
    assert parts == [matrices, set(names.values()) - matrices]
    before = {name: p.detach().clone() for name, p in course.model.named_parameters()}
    course.step()
    for name, p in course.model.named_parameters():
        update = (before[name] - p.detach()).flatten(1) / 0.02 if p.dim() > 1 else None
        if name in matrices:
            rows, columns = update.shape
            scale = (0.2 * math.sqrt(max(rows, columns)) if backend is muon.backend
                     else math.sqrt(max(1, rows / columns)))
            # Five iterations bring singular values to about 1: between 0.7 and 1.2.
            values = torch.linalg.svdvals(update / scale)
            assert 0.5 < values[0] < 1.3


def test_muon_does_without_matrices_or_without_others():
    class Bare(torch.nn.Sequential):
        roles = {"0.weight": "matrix"}

    for network, kinds in ((lambda: torch.nn.Sequential(torch.nn.Linear(5, 3)), ["AdamW"]),
                           (lambda: Bare(torch.nn.Linear(5, 3, bias=False)), ["Muon"])):
        course = Course(muon.backend, network=network)
        course.step()
        assert [type(each).__name__ for each in course.stepper.optimizers] == kinds
