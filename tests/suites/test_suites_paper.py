"""The suites of the APTS paper: their models' outputs and how their minibatches divide."""

import math

import pytest
import torch

from bench_apts.core.errors import UserError
from bench_apts.plugins import registry
from bench_apts.suites import models
from bench_apts.suites.known_data import KNOWN

TRAINING = {"mnist": 60_000, "cifar10": 50_000}


@pytest.mark.parametrize(("name", "batches", "epochs"), [
    ("paper-mnist", 6, 10), ("paper-mnist-full", 1, 25), ("paper-cifar10", 5, 10)])
def test_an_epoch_is_a_whole_number_of_minibatches_for_2_4_and_6_ranks(name, batches, epochs):
    suite = registry.suite(name)
    training = TRAINING[suite.data.name] - suite.data.validation
    assert suite.batch_size * batches == training
    assert all(suite.batch_size % ranks == 0 for ranks in (2, 4, 6))
    hyperparameters = registry.optimizer("apts-paper").backend.configure({})
    passes = hyperparameters["local_iterations"] + 3
    assert suite.budget.samples == passes * epochs * training


def test_the_sigmoid_puts_a_floor_under_the_loss():
    suite = registry.suite("paper-mnist")
    model = models.build(suite.model.name, suite.model.options, KNOWN["mnist"].shape, 10)
    inputs, targets = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    output = model(inputs)
    logits = model[:-2](inputs)
    torch.testing.assert_close(output, torch.log_softmax(torch.sigmoid(logits), dim=1))
    assert torch.nn.functional.cross_entropy(output, targets) >= math.log(1 + 9 / math.e)
    best = torch.log_softmax(torch.sigmoid(torch.tensor([[99.0] + [-99.0] * 9])), dim=1)
    assert -best[0, 0].item() == pytest.approx(1.4612, abs=5e-5)


def test_log_softmax_changes_no_loss():
    torch.manual_seed(0)
    model = models.build("mlp", {"output": "log-softmax"}, (64,), 10)
    inputs, targets = torch.randn(8, 64), torch.randint(10, (8,))
    loss = torch.nn.functional.cross_entropy
    torch.testing.assert_close(loss(model(inputs), targets), loss(model[:-1](inputs), targets))


def test_an_unknown_output_is_answered_with_what_there_is():
    with pytest.raises(UserError, match="did you mean log-softmax"):
        models.build("mlp", {"output": "logsoftmax"}, (64,), 10)
