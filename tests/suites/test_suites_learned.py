"""Each network learns from the data that are meant for it, in seconds on one core."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench_apts.suites.generated import collocation, derived, friedman, graphs, recall, text
from bench_apts.suites.networks import gin, pinn, tabular, transformer, unet

pytestmark = pytest.mark.slow


def trained(model, made, loss, steps, batch, rate):
    """Train by AdamW on batches drawn anew in each epoch, and return the model."""
    inputs, targets = map(torch.from_numpy, made["train"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    drawn = []
    for _ in range(steps):
        if len(drawn) < 2:
            drawn = list(torch.randperm(len(inputs)).split(batch))
        rows = drawn.pop(0)
        optimizer.zero_grad()
        loss(model, inputs[rows], targets[rows]).backward()
        optimizer.step()
    return model


def answers(model, made):
    inputs, targets = map(torch.from_numpy, made["test"])
    with torch.no_grad():
        return model(inputs), targets


def cross_entropy(model, inputs, targets):
    return functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def square_error(model, inputs, targets):
    return functional.mse_loss(model(inputs), targets)


@pytest.fixture(autouse=True)
def _one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def test_a_small_gpt_learns_words():
    made = text.grammar_text(100_000, 32)
    model = trained(transformer.gpt(28, 32, 1, 32, 2), made, cross_entropy, 200, 32, 1e-2)
    logits, targets = answers(model, made)
    loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert made.floor < loss < 0.65 * made.baseline


def test_attention_learns_to_look_up_what_it_read():
    made = recall.recall(5_000, 500, length=16, pairs=4, vocabulary=33)
    model = trained(transformer.attention(33, 16), made, cross_entropy, 400, 64, 1e-3)
    logits, targets = answers(model, made)
    asked = targets != recall.IGNORED
    right = (logits.argmax(dim=-1) == targets)[asked].float().mean()
    assert right > 0.6  # 1/16 is by chance, 1/4 by guessing one of the values of the sequence


def test_a_graph_network_counts_neighbours_that_a_network_of_degrees_cannot():
    made = graphs.graphs(3_000, 300)
    model = trained(gin.gin(1, 3), made, cross_entropy, 600, 64, 3e-3)
    logits, targets = answers(model, made)
    assert (logits.argmax(dim=1) == targets).float().mean() > 0.7
    # One round of messages tells a node's degree, and the graphs' degrees are all the same.
    model = trained(gin.gin(1, 3, layers=1), made, cross_entropy, 100, 64, 3e-3)
    logits, targets = answers(model, made)
    assert (logits.argmax(dim=1) == targets).float().mean() == pytest.approx(1 / 3)


@pytest.mark.parametrize(("make", "steps"), [
    (lambda: tabular.mlp(10, 1), 600), (lambda: tabular.ft_transformer(10, 1, 16, 1), 300)])
def test_networks_for_rows_come_near_the_floor(make, steps):
    made = friedman.friedman(5_000, 1_000)
    outputs, targets = answers(trained(make(), made, square_error, steps, 64, 5e-3), made)
    error = math.sqrt(functional.mse_loss(outputs, targets))
    assert made.floor < error < 0.4 * made.baseline


def test_a_pinn_finds_the_solution():
    made = collocation.collocation(1_000, grid=20)

    def loss(model, points, targets):
        return pinn.poisson_losses(model, points, targets).mean()

    found, expected = answers(trained(pinn.pinn(), made, loss, 400, 128, 3e-3), made)
    assert collocation.relative_l2(found.numpy(), expected.numpy()) < 0.2


def digits():
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return loaded.images, loaded.target.astype(np.int64)


def test_a_small_unet_removes_noise():
    images = (digits()[0] * 15).astype(np.uint8)[:, None]
    made = derived.denoising(images[:1_500], images[1_500:], noise=0.3)
    unchanged = functional.mse_loss(*answers(torch.nn.Identity(), made)).item()
    assert unchanged == pytest.approx(0.09, rel=0.05)
    model = trained(unet.unet(1, 8, 1), made, square_error, 100, 32, 1e-2)
    error = functional.mse_loss(*answers(model, made)).item()
    assert error < 0.5 * min(made.baseline, unchanged)


def test_a_vision_transformer_learns_digits():
    images, labels = digits()
    inputs = (images[:, None] / 8 - 1).astype(np.float32)
    made = {"train": (inputs[:1_500], labels[:1_500]), "test": (inputs[1_500:], labels[1_500:])}
    model = transformer.vit((1, 8, 8), 10, 4, 32, 1, 4)
    logits, targets = answers(trained(model, made, cross_entropy, 200, 32, 3e-3), made)
    assert (logits.argmax(dim=1) == targets).float().mean() > 0.65


def test_order_by_label_hurts_training_and_so_is_worth_a_suite():
    images, labels = digits()
    inputs = (images.reshape(-1, 64) / 16).astype(np.float32)
    test = torch.from_numpy(inputs[1_500:]), torch.from_numpy(labels[1_500:])

    def accuracy(order):
        torch.manual_seed(0)
        model = tabular.mlp(64, 10, (32,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for rows in torch.from_numpy(order).split(32) * 3:
            optimizer.zero_grad()
            functional.cross_entropy(model(torch.from_numpy(inputs)[rows]),
                                     torch.from_numpy(labels)[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            return (model(test[0]).argmax(dim=1) == test[1]).float().mean().item()

    shards = derived.noniid(labels[:1_500], 10)
    mixed = derived.noniid(labels[:1_500], 10, 1e6)
    assert accuracy(np.concatenate(shards)) < 0.5 < accuracy(np.concatenate(mixed))
