"""Evaluation: every sample counted once, on any number of ranks."""

import math

import numpy as np
import pytest
import torch
from harness_ranks import run_ranks

from bench_apts.contract import World
from bench_apts.tasks.named_tasks import Classification
from bench_apts.trial.evaluation import SplitResult, evaluate
from bench_apts.trial.loader import Conversion, Resident

CPU = torch.device("cpu")
SIZES = (1, 2, 10, 1000, 1001, 2501, 3001)  # the last: 1001, 1000 and 1000 on three ranks


class Counting(torch.nn.Module):
    """A fixed linear model that counts its forward passes."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 4)
        self.dropout = torch.nn.Dropout(0.9)
        with torch.no_grad():
            self.linear.weight.copy_(torch.sin(torch.arange(32.0)).reshape(4, 8))
            self.linear.bias.copy_(torch.cos(torch.arange(4.0)))
        self.passes = 0

    def forward(self, inputs):
        self.passes += 1
        return self.dropout(self.linear(inputs))


def split(samples):
    rng = np.random.default_rng(samples)
    pair = rng.standard_normal((samples, 8)).astype(np.float32), rng.integers(0, 4, samples)
    return Resident(*pair, Conversion(*pair, (0.0,), (1.0,), 1.0, CPU))


def world(rank=0, size=1):
    return World(rank, size, CPU, 64, 1000)


def expected(samples):
    part = split(samples)
    logits = (part.inputs.double() @ Counting().linear.weight.double().T
              + Counting().linear.bias.double())
    correct = int((logits.argmax(dim=1) == part.targets).sum())
    return correct, float(torch.nn.functional.cross_entropy(
        logits.detach(), part.targets, reduction="sum"))


def all_sizes(connect):
    import torch.distributed as dist

    connect()
    rank, size = dist.get_rank(), dist.get_world_size()
    answers = []
    for samples in SIZES:
        model = Counting()
        result = evaluate(model, split(samples), Classification(),
                          world(rank, size), [1.0, float(rank)], [float(rank), -float(rank)])
        answers.append((result.values["accuracy"], result.loss, result.count, result.sums,
                        result.peaks, model.passes))
    return answers


def test_sums_and_counts_are_exact_on_three_ranks():
    ranks = run_ranks(all_sizes, 3)
    for number, samples in enumerate(SIZES):
        correct, loss_sum = expected(samples)
        answers = [answers[number] for answers in ranks]
        assert {a[0] for a in answers} == {correct / samples}
        assert {a[2] for a in answers} == {samples}
        assert all(math.isclose(a[1], loss_sum / samples, rel_tol=1e-5) for a in answers)
        assert {a[3] for a in answers} == {(3.0, 3.0)}
        assert {a[4] for a in answers} == {(2.0, 0.0)}
        assert len({a[5] for a in answers}) == 1, "a sharded model would hang"


@pytest.mark.parametrize("samples", SIZES)
def test_sums_and_counts_are_exact_on_one_rank(samples):
    model = Counting()
    result = evaluate(model, split(samples), Classification(), world(),
                      [2.0], [3.0])
    correct, loss_sum = expected(samples)
    assert (result.values["accuracy"], result.count) == (correct / samples, samples)
    assert math.isclose(result.loss, loss_sum / samples, rel_tol=1e-5)
    assert (result.sums, result.peaks) == ((2.0,), (3.0,))
    assert model.passes == math.ceil(samples / 1000)


def different_splits(connect):
    import torch.distributed as dist

    connect()
    rank = dist.get_rank()
    try:
        evaluate(Counting(), split(10 + 3 * rank), Classification(),
                 world(rank, 2))
    except RuntimeError as error:
        return str(error)
    return None


def test_a_sample_lost_or_counted_twice_is_an_error():
    assert run_ranks(different_splits, 2) == [
        "evaluated 11 samples of 10", "evaluated 11 samples of 13"]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_in_the_mode_it_had(training):
    model = Counting().train(training)
    evaluate(model, split(10), Classification(), world())
    assert model.training is training
    assert model.dropout.training is training
    assert model.linear.weight.grad is None


@pytest.mark.parametrize("loss", [0.5, math.nan, math.inf])
def test_metrics_leave_out_what_is_not_finite(loss):
    found = SplitResult(loss, {"accuracy": 0.75, "loss": loss}, 4, (), ()).metrics()
    assert found == {"accuracy": 0.75} | ({"loss": loss} if math.isfinite(loss) else {})
