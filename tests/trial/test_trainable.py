"""Unusual networks: trained by every backend, or refused in one line before the first trial."""

import functools
import math

import numpy as np
import pytest
import torch
from harness_ranks import run_ranks
from mechanics_models import Slope, Squares
from torch import nn
from trainable_ranks import courses

from bench_apts.core.errors import UserError
from bench_apts.plugins import registry
from bench_apts.study.suite_network_checks import rehearse_batch
from bench_apts.suites import data
from bench_apts.suites.suite_problem import SuiteProblem

TOGETHER = ("sgd", "adam", "apts", "apts-paper", "local-adam", "nadamw", "schedule-free",
            "prodigy")
ZERO = [pytest.param(name, marks=pytest.mark.slow) for name in ("zero1", "zero2", "zero3")]


@functools.cache
def trained(backend, size):
    """What each rank saw."""
    several = TOGETHER if backend in TOGETHER else (backend,)
    return _run(several, size)


@functools.cache
def _run(backends, size):
    return run_ranks(courses, size, backends)


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("backend", [*TOGETHER, *ZERO])
def test_tied_parameters_of_64_bits_are_trained(backend, size):
    if backend.startswith("zero"):
        pytest.importorskip("deepspeed")
    ranks = [rank[backend] for rank in trained(backend, size)]
    for rank in ranks:
        assert all(map(math.isfinite, rank["losses"]))
        assert rank["tied"]
        assert rank["dtype"] == "torch.float64"
        assert rank["prints"] == ranks[0]["prints"]
    if backend.startswith("zero"):
        adam = [rank["adam"] for rank in trained("adam", size)]
        for one, other in zip(ranks, adam, strict=True):
            np.testing.assert_allclose(one["losses"], other["losses"], rtol=1e-3)


class Layers(nn.Module):
    """A linear layer, and one more parameter that enters by ``use``."""

    def __init__(self, parameter=None, use=None):
        super().__init__()
        self.last, self.use = nn.Linear(64, 10), use
        if parameter is not None:
            self.extra = nn.Parameter(parameter)

    def forward(self, inputs):
        return self.last(self.use(inputs, self.extra) if self.use else inputs)


class Sparse(nn.Module):
    """An embedding with sparse gradients."""

    def __init__(self):
        super().__init__()
        self.embedding, self.last = nn.Embedding(99, 4, sparse=True), nn.Linear(4, 10)

    def forward(self, inputs):
        return self.last(self.embedding(inputs.long().clamp(0, 98)).mean(1))


class Experts(nn.Module):
    """Each sample goes to one of 40 layers: few batches reach all of them."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(64, 10) for _ in range(40))

    def forward(self, inputs):
        chosen = torch.arange(len(inputs)) % 40
        return torch.stack([self.experts[k](x) for k, x in zip(chosen, inputs, strict=True)])


class Changing(Layers):
    """Changes its input."""

    def forward(self, inputs):
        return self.last(inputs.mul_(0.5))


def shared():
    network = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    network[1].weight.data = network[0].weight.data
    return network


def frozen():
    return nn.Linear(64, 10).requires_grad_(False)


REFUSED = {
    "no parameters": (lambda: nn.Flatten(), "no parameter"),
    "all frozen": (frozen, "no parameter"),
    "lazy": (lambda: nn.LazyLinear(10), "lazy"),
    "without values": (lambda: nn.Linear(64, 10, device="meta"), "meta"),
    "complex": (lambda: Layers(torch.ones(64, dtype=torch.cfloat), lambda x, p: (x * p).abs()),
                "view_as_real"),
    "half": (lambda: nn.Linear(64, 10, dtype=torch.bfloat16), "bfloat16"),
    "two dtypes": (lambda: Layers(torch.ones(64, dtype=torch.double),
                                  lambda x, p: (x * p).float()), "float64"),
    "expanded": (lambda: Layers(torch.ones(1).expand(64), lambda x, p: x * p), "expand"),
    "shared memory": (shared, "0.weight and 1.weight"),
    "sparse": (Sparse, "sparse=True"),
    "unused": (lambda: Layers(torch.ones(64)), "extra"),
    "sometimes unused": (Experts, "some batches"),
    "NaN": (lambda: Layers(torch.full((64,), math.nan), lambda x, p: x * p), "NaN"),
    "changes its input": (Changing, "in place"),
}


@pytest.fixture
def rehearsed(digits):
    """Rehearses a network on the digits."""
    dataset = data.load(digits.folder)

    def run(build, task=None, **changes):
        suite = registry.suite("digits", tuple(f"suite.{k}={v}" for k, v in changes.items()))
        problem = SuiteProblem(suite)
        problem.network = lambda dataset: build()
        problem.task = task or problem.task
        return rehearse_batch(problem, dataset)

    return run


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_cannot_be_trained_is_refused_in_one_line(rehearsed, what):
    build, token = REFUSED[what]
    with pytest.raises(UserError) as caught:
        rehearsed(build)
    assert token in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_networks_that_only_look_unusual_are_accepted(rehearsed):
    partly = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 10))
    partly[0].requires_grad_(False)
    assert rehearsed(lambda: partly) == sum(p.numel() for p in partly.parameters())

    class Wide(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs.double())

    assert rehearsed(lambda: Wide(64, 10, dtype=torch.double)) == 650


@pytest.mark.slow
def test_losses_that_differentiate_cannot_be_compiled_and_others_can(rehearsed):
    rehearsed(lambda: nn.Linear(64, 1), Squares(), compile="true")
    with pytest.raises(UserError, match="double backward"):
        rehearsed(lambda: nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1, bias=False)),
                  Slope(), compile="true")
