"""Modules of losses under FSDP2, torch.compile and bf16 give the losses of the plain module."""

import numpy as np
import pytest
import torch
from harness_ranks import run_ranks
from torch import nn
from wrapped_ranks import SAMPLES, STEPS, problem, sharded

from bench_apts.tasks.loss_module import measured, model_inputs, trained
from bench_apts.trial import trained_model
from bench_apts.trial.trained_model import instrument

CPU = torch.device("cpu")


def test_fsdp2_gives_the_losses_of_the_plain_module():
    (plain,), (one,), two = (run_ranks(sharded, size, sharding)
                             for size, sharding in ((1, False), (1, True), (2, True)))
    for number, (losses, sums, _) in enumerate(plain):
        np.testing.assert_allclose(one[number][0], losses, rtol=1e-5)
        np.testing.assert_allclose(
            np.mean([rank[number][0] for rank in two], axis=0), losses, rtol=1e-5)
        for rank, ranks in ((one, 1), (two[0], 2), (two[1], 2)):
            np.testing.assert_allclose(rank[number][1], sums, rtol=1e-5)
            assert rank[number][2] == [STEPS * SAMPLES // ranks + SAMPLES, STEPS + 1, STEPS]


def passed(differentiates, forward):
    """Losses, gradients and metrics of a module whose class's forward pass is replaced."""
    network, task, batch = problem(differentiates)
    model, loss = trained(network, task)
    passes = instrument(model, forward(type(model).forward))
    given = model_inputs(task, batch)
    losses = model(given.inputs)
    loss(losses, given.targets).backward()
    with torch.no_grad():
        sums = measured(model.eval(), task, batch)
    assert passes.state() == [2 * SAMPLES, 2, 1]
    return losses.detach(), nn.utils.parameters_to_vector(p.grad for p in model.parameters()), sums


@pytest.mark.parametrize("differentiates", [False, True])
def test_bf16_gives_float32_losses_near_those_of_float32(differentiates):
    plain = passed(differentiates, lambda forward: forward)
    mixed = passed(
        differentiates, lambda forward: trained_model.in_precision(forward, CPU, "bf16"))
    assert mixed[0].dtype == torch.float32
    assert not torch.equal(mixed[0], plain[0])
    for one, other in zip(mixed, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.02)


@pytest.mark.slow
def test_compiled_losses_are_those_of_the_plain_module():
    plain = passed(False, lambda forward: forward)
    compiled = passed(False, torch.compile)
    for one, other in zip(compiled, plain, strict=True):
        torch.testing.assert_close(one, other)
