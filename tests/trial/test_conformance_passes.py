"""Passes are counted whatever calls the model."""

import copy

import pytest
import torch
from torch import nn

from bench_apts.trial.trained_model import instrument


class Pair(nn.Module):
    """Two outputs of one layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs):
        output = self.layer(inputs)
        return {"left": output[:, :1], "right": [output[:, 1:]]}


def counts(passes):
    return passes.samples, passes.forwards, passes.backwards


@pytest.fixture
def linear():
    model = nn.Linear(3, 1)
    return model, instrument(model, type(model).forward)


def test_forward_and_backward_passes_and_samples(linear):
    model, passes = linear
    model(torch.ones(4, 3)).sum().backward()
    torch.autograd.grad(model.forward(torch.ones(5, 3)).sum(), list(model.parameters()))
    with torch.no_grad():
        model(torch.ones(6, 3))
    assert counts(passes) == (15, 3, 2)


def test_what_the_harness_does_is_left_out(linear):
    model, passes = linear
    with passes.paused():
        model(torch.ones(4, 3)).sum().backward()
    assert counts(passes) == (0, 0, 0)


def test_a_copy_of_the_model_counts_too_with_its_own_weights(linear):
    model, passes = linear
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.weight.zero_()
        twin.bias.zero_()
    assert float(twin(torch.ones(1, 3)).detach().abs().sum()) == 0
    assert counts(passes) == (1, 1, 0)


def test_functional_calls_count(linear):
    model, passes = linear
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    torch.func.functional_call(model, zeros, (torch.ones(2, 3),))
    assert counts(passes) == (2, 1, 0)


def test_a_second_derivative_is_a_second_backward_pass():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    passes = instrument(model, type(model).forward)
    parameters = list(model.parameters())
    first = torch.autograd.grad(model(torch.ones(2, 3)).square().sum(), parameters,
                                create_graph=True)
    assert passes.backwards == 1
    torch.autograd.grad(sum(g.sum() for g in first), parameters, allow_unused=True)
    assert passes.backwards == 2


def test_several_outputs_are_one_pass():
    model = Pair()
    passes = instrument(model, type(model).forward)
    output = model(torch.ones(4, 3))
    (output["left"].sum() + output["right"][0].sum()).backward()
    assert counts(passes) == (4, 1, 1)


def test_a_model_that_a_plugin_compiles_runs_without_counting(linear):
    model, passes = linear
    compiled = torch.compile(model, backend="eager")
    for _ in range(3):
        compiled(torch.ones(4, 3)).sum().backward()
    assert counts(passes) == (0, 0, 0)
    model(torch.ones(4, 3))
    assert counts(passes) == (4, 1, 0)


def trained(model, passes, times):
    for _ in range(times):
        model(torch.ones(2, 3)).sum().backward()
    return passes.backwards


def test_settled_counts_go_on_as_before_without_hooks_on_outputs(linear):
    model, passes = linear
    assert trained(model, passes, 3) == 3
    passes.settle()
    passes.reset()
    assert trained(model, passes, 5) == 5
    output = model(torch.ones(4, 3))
    with passes.paused():
        output.sum().backward(retain_graph=True)
    assert passes.backwards == 5
    torch.autograd.grad(output.sum(), list(model.parameters()))
    assert counts(passes) == (14, 6, 6)


@pytest.mark.parametrize("unlike", ["replaced", "frozen", "twin", "penalty"])
def test_counts_do_not_settle_on_a_parameter_that_is_reached_at_other_times(linear, unlike):
    model, passes = linear
    user = copy.deepcopy(model) if unlike == "twin" else model
    if unlike == "replaced":
        model.bias = nn.Parameter(model.bias.detach().clone())
    if unlike == "frozen":
        model.bias.requires_grad_(False)
    if unlike == "penalty":
        model.bias.square().sum().backward()
    assert trained(user, passes, 2) == 2
    passes.settle()
    passes.reset()
    assert trained(user, passes, 3) == 3


def test_a_pass_begun_before_counts_settle_counts_once(linear):
    model, passes = linear
    trained(model, passes, 1)
    output = model(torch.ones(2, 3))
    passes.settle()
    output.sum().backward()
    assert passes.backwards == 2
