"""Operations of one sample, counted by hand; counting leaves no trace."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench_apts.contract import Batch
from bench_apts.meters.flops import SAMPLES, Flops, per_sample
from bench_apts.suites import models


def samples(shape):
    return Batch(torch.zeros(SAMPLES, *shape), torch.zeros(SAMPLES, dtype=torch.int64))


def test_a_dense_network_by_hand():
    # Two operations a weight forward. Backward as many for the weights' gradients, and as many
    # for the inputs' of each layer but the first; biases are additions and do not count.
    model = models.build("mlp", {"hidden": [16, 8]}, (1, 5, 5), 10)
    first, others = 25 * 16, 16 * 8 + 8 * 10
    assert per_sample(model, cross_entropy, samples((1, 5, 5))) == (
        2 * (first + others), 2 * first + 4 * others)


def test_a_convolution_by_hand():
    # Each of the 6 x 6 outputs of 4 channels is a sum over 2 channels of 3 x 3 products.
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    products = 6 * 6 * 4 * 2 * 3 * 3
    assert per_sample(model, cross_entropy, samples((2, 8, 8))) == (
        2 * products + 2 * 144 * 3, 2 * products + 4 * 144 * 3)


def test_what_is_not_trained_has_no_gradient_of_its_own():
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    assert per_sample(model, cross_entropy, samples((7,))) == (2 * (35 + 15), 2 * 15)


def network():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(0.5), nn.Linear(108, 4))


def trajectory(count):
    """Trains for a few steps; returns all that could differ, as bytes."""
    torch.manual_seed(5)
    model = network()
    model.eval()
    counted = [per_sample(model, cross_entropy, samples((1, 8, 8))) for _ in range(count)]
    assert not model.training
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(model(torch.randn(6, 1, 8, 8)), torch.randint(4, (6,))).backward()
        optimizer.step()
    state = [*model.state_dict().values(), torch.random.get_rng_state()]
    return [tensor.numpy().tobytes() for tensor in state], counted


def test_counting_leaves_weights_buffers_and_random_state_as_they_were():
    bare, none = trajectory(0)
    watched, counted = trajectory(2)
    assert watched == bare
    assert none == []
    assert counted[0] == counted[1]
    assert counted[0].forward > 0
    model = network()
    per_sample(model, cross_entropy, samples((1, 8, 8)))
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert model[1].num_batches_tracked == 0


@pytest.mark.parametrize(("name", "shape"), [
    ("mlp", (64,)), ("cnn-small", (1, 28, 28)), ("cnn", (3, 32, 32)), ("resnet", (3, 32, 32)),
    ("resnet18", (3, 32, 32))])
def test_every_model_counts_the_same_without_storage(name, shape):
    real = models.build(name, {}, shape, 10)
    with torch.device("meta"):
        bare = models.build(name, {}, shape, 10)
    found = per_sample(real, cross_entropy, samples(shape))
    assert found == per_sample(bare, cross_entropy, samples(shape))
    assert found.forward < found.backward < 2 * found.forward


def test_a_residual_network_is_the_sum_of_its_layers():
    model = models.build("resnet18", {}, (3, 32, 32), 10).eval()
    products = []

    def count(layer, inputs, output):
        products.append(output.numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert len(products) == 21
    assert per_sample(model, cross_entropy, samples((3, 32, 32))).forward == 2 * sum(products[:21])


def test_totals_follow_the_counted_passes():
    one = Flops(10, 18)
    assert one.total(samples=0, forwards=0, backwards=0) == 0
    assert one.total(samples=64, forwards=1, backwards=1) == 64 * 28
    # A trust-region step: three passes over 32 samples, one of them backwards.
    assert one.total(samples=96, forwards=3, backwards=1) == 96 * 10 + 32 * 18


def test_a_forward_pass_that_differentiates_counts():
    model = Slopes()
    # Forward and the derivative by the inputs: two products of either layer.
    found = per_sample(model, lambda output, targets: output.mean(), samples((3,)))
    assert found.forward == 2 * (2 * (3 * 4) + 2 * 4)


def test_what_needs_numbers_is_not_counted():
    assert per_sample(nn.Flatten(), lambda output, targets: output.sum().item(),
                      samples((3,))) is None


class Slopes(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.body(x).sum(), x, create_graph=True)[0].square()
