"""Random numbers: seeded for each step, whatever ran before; the same in all passes of a step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from one_rank import train
from torch import nn

from bench_apts.contract import Batch, World
from bench_apts.optimizers.data_parallel import DataParallelStepper
from bench_apts.optimizers.trust_region import apts_paper
from bench_apts.plugins.randomness import Redraw, StepSeeds

CPU = torch.device("cpu")
NOISY = ('suite.model={source="mechanics_models:Noisy"}', "suite.budget.samples=640",
         "suite.evaluation.every_samples=320")


def drawn(seed, rank, what):
    StepSeeds(seed, rank, CPU).begin(what)
    return torch.rand(4).tolist()


@given(seed=st.integers(0, 2**63 - 1), rank=st.integers(0, 99), step=st.integers(0, 2**40))
def test_draws_depend_on_seed_rank_and_step_alone(seed, rank, step):
    first = drawn(seed, rank, step)
    torch.rand(7)
    assert drawn(seed, rank, step) == first
    for other in ((seed ^ 1, rank, step), (seed, rank + 1, step), (seed, rank, step + 1),
                  (seed, rank, "evaluation")):
        assert drawn(*other) != first


def test_what_was_drawn_is_drawn_again():
    redraw = Redraw(CPU)
    first = torch.rand(4)
    redraw.again()
    torch.testing.assert_close(torch.rand(4), first, rtol=0, atol=0)


@pytest.mark.parametrize("selector", ["sgd", "apts", "apts-paper"])
def test_the_undone_warm_up_leaves_no_trace_in_random_numbers(
        selector, make_trial, digits, tmp_path):
    trial = make_trial(selector, 1, NOISY)
    ends = []
    for warm in (True, False):
        run = train(trial, digits, tmp_path, warm)
        ends.append([(each.validation, each.train_loss) for each in run.evals])
    assert ends[0] == ends[1]
    assert len(ends[0]) == 3


def test_every_pass_over_a_minibatch_has_the_same_dropout_masks():
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    masks = []
    model[1].register_forward_hook(lambda module, inputs, output: masks.append(output != 0))
    world = World(0, 1, CPU, 8, 80)
    batch = Batch(torch.randn(8, 4), torch.arange(8) % 3)
    steppers = [
        apts_paper.build(model, nn.functional.cross_entropy, apts_paper.configure({}), world),
        DataParallelStepper(model, nn.functional.cross_entropy, world,
                            lambda parameters: torch.optim.LBFGS(parameters, max_iter=4))]
    for stepper in steppers:
        masks.clear()
        stepper.step(batch)
        assert len(masks) > 2
        assert all(torch.equal(mask, masks[0]) for mask in masks)
        last = masks[0]
        masks.clear()
        stepper.step(batch)
        assert not torch.equal(masks[0], last)
