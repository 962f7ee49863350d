"""Tasks: losses are those of samples, metrics add up however samples are cut into batches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench_apts.contract import Batch, World
from bench_apts.tasks import Metric, Task
from bench_apts.tasks.loss_module import LossModule, measured, model_inputs, trained
from bench_apts.tasks.named_tasks import READY, LanguageModel, Regression
from bench_apts.tasks.task import every_metric
from bench_apts.trial.evaluation import evaluate
from bench_apts.trial.loader import Conversion, Resident

CPU = torch.device("cpu")


class Own(Task):
    """The squared slope of the network: it needs a derivative."""

    metrics = {"slope": Metric("min", "m", math.sqrt)}

    def slopes(self, model, batch):
        x = batch.inputs.detach().requires_grad_()
        slope, = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return slope.square().sum(1)

    def losses(self, model, batch):
        return self.slopes(model, batch)

    def measures(self, model, batch):
        return {"slope": (self.slopes(model, batch).sum(), len(batch.targets))}


def problem(name, samples):
    """A task with a network and a batch that fit."""
    rng = torch.Generator().manual_seed(samples)
    inputs = torch.randn(samples, 6, generator=rng)
    if name == "language-model":
        tokens = torch.randint(11, (samples, 7), generator=rng)
        targets = tokens.roll(-1, 1)
        targets[::2, 4:] = -100
        return READY[name](), nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11)), Batch(
            tokens, targets)
    if name == "classification":
        return READY[name](), nn.Linear(6, 3), Batch(
            inputs, torch.randint(3, (samples,), generator=rng))
    if name == "own":
        return Own(), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)), Batch(
            inputs, torch.zeros(samples))
    shape = (samples, 6) if name == "autoencoding" else (samples,)
    return READY[name](), nn.Linear(6, 6 if name == "autoencoding" else 1), Batch(
        inputs, torch.randn(shape, generator=rng))


NAMES = [*READY, "own"]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=10)
@given(samples=st.integers(1, 30))
def test_losses_are_per_sample_and_reduce_to_their_mean_and_sum(name, samples):
    task, network, batch = problem(name, samples)
    model, loss = trained(network, task)
    given_ = model_inputs(task, batch)
    losses = loss(model(given_.inputs), given_.targets, reduction="none")
    assert losses.shape == (samples,)
    for reduction, expected in (("mean", losses.mean()), ("sum", losses.sum())):
        found = loss(model(given_.inputs), given_.targets, reduction=reduction)
        torch.testing.assert_close(found, expected)
    alone = torch.cat([task.losses(network, Batch(batch.inputs[k:k + 1], batch.targets[k:k + 1]))
                       for k in range(samples)])
    torch.testing.assert_close(losses, alone)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=10)
@given(samples=st.integers(2, 30), data=st.data())
def test_metrics_add_up_over_any_cut(name, samples, data):
    task, network, batch = problem(name, samples)
    model, _ = trained(network, task)
    cut = data.draw(st.integers(1, samples - 1))
    whole, *parts = [measured(model, task, Batch(batch.inputs[part], batch.targets[part]))
                     for part in (slice(None), slice(cut), slice(cut, None))]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-5, atol=1e-6)
    assert whole.shape == (len(every_metric(task)), 2)
    assert whole[-1, 1] == samples


def resident(inputs, targets, mean=(0.0,), std=(1.0,), scale=1.0):
    return Resident(inputs, targets, Conversion(inputs, targets, mean, std, scale, CPU))


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_without_gradients_gives_the_metrics_of_the_whole_split(name):
    task, network, batch = problem(name, 30)
    split = resident(batch.inputs.numpy(), batch.targets.numpy())
    model, loss = trained(network, task)
    found = evaluate(model, split, task, World(0, 1, CPU, 8, 100)).metrics()
    assert set(found) == set(every_metric(task))
    given_ = model_inputs(task, batch)
    assert found["loss"] == pytest.approx(
        loss(model(given_.inputs), given_.targets).item(), rel=1e-5)


def test_a_language_model_counts_tokens():
    _, network, batch = problem("language-model", 9)
    split = resident(batch.inputs.numpy(), batch.targets.numpy())
    found = evaluate(network, split, LanguageModel(bytes_per_token=2.0),
                     World(0, 1, CPU, 8, 100)).metrics()
    kept = batch.targets != -100
    nats = nn.functional.cross_entropy(network(batch.inputs)[kept], batch.targets[kept]).item()
    assert found["nats_per_token"] == pytest.approx(nats, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 2, rel=1e-5)


def test_outputs_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="shape"):
        Regression().loss(torch.zeros(4, 3), torch.zeros(4))
    assert Regression().loss(torch.zeros(4, 1), torch.ones(4), reduction="none").shape == (4,)


def test_a_module_of_losses_gives_values_without_gradients_too():
    task, network, batch = problem("own", 5)
    model = LossModule(network, task)
    with torch.no_grad():
        values = model(batch)
    torch.testing.assert_close(values, model(batch))
    assert not values.requires_grad


@pytest.mark.parametrize(("dtype", "shape", "kept"), [
    (np.uint8, (4, 5), True), (np.int64, (4, 5), True), (np.uint8, (4, 5, 5), False),
    (np.uint8, (4, 3, 5, 5), False), (np.float32, (4, 5), False)])
def test_whole_numbers_stay_and_images_and_floats_are_normalised(dtype, shape, kept):
    inputs = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    split = resident(inputs, np.zeros(4), (1.0,), (2.0,), 0.5)
    found = split.take(torch.arange(4)).inputs
    expected = torch.from_numpy(inputs)
    assert found.dtype == (torch.int64 if kept else torch.float32)
    torch.testing.assert_close(
        found, expected.long() if kept else (0.5 * expected.float() - 1) / 2)


def test_a_metric_without_a_value_is_nan():
    assert math.isnan(Metric("min").value(1.0, 0.0))
    assert math.isnan(Metric("min", final=math.sqrt).value(-1.0, 1.0))
    assert math.isnan(Metric("min", final=math.exp).value(1e9, 1.0))
