"""Muon's direction inside APTS-S: what it computes, where it is refused, how ranks agree."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stochastic_task import Task
from torch import nn

from bench_apts.contract import World
from bench_apts.optimizers.apts import APTS
from bench_apts.optimizers.apts.muon_moments import muon_rows, orthogonalize
from bench_apts.optimizers.trust_region import apts, muon_groups
from bench_apts.suites.networks import transformer


@given(st.integers(1, 12), st.integers(1, 12), st.floats(1e-6, 1e6), st.integers(0, 999))
def test_singular_values_come_out_near_one_and_vectors_stay(rows, columns, scale, seed):
    random = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(size, size, generator=random, dtype=torch.float64))[0]
            for size in (rows, columns))
    rank = min(rows, columns)
    values = scale * (0.1 + torch.rand(rank, generator=random, dtype=torch.float64))
    u, v = u[:, :rank], v[:, :rank]
    found = u.T @ orthogonalize((u * values @ v.T)[None])[0] @ v
    assert torch.allclose(found, found.diag().diag(), atol=1e-6)
    assert found.diag().min() > 0.6
    assert found.diag().max() < 1.3


def test_a_zero_matrix_has_no_direction():
    assert not orthogonalize(torch.zeros(2, 3, 4)).any()


@pytest.mark.parametrize(("parameter", "rows"), [
    (torch.ones(5, 7), 5),
    (torch.ones(5, 7).t(), 5),  # of the transpose, whose rows lie one after another
    (torch.ones(8, 3, 2, 2), 8),
    (torch.ones(8, 3, 2, 2).to(memory_format=torch.channels_last), 8),
    (torch.ones(1, 7), 7),
    (torch.ones(7, 1), 7),
    (torch.ones(1, 1), 1),
])
def test_the_rows_of_a_parameter_are_its_outermost_dimension(parameter, rows):
    assert muon_rows(parameter) == rows


def kernel_step(memory_format, dtype=torch.float32):
    """The first step of a kernel against a given gradient."""
    layer = nn.Conv2d(3, 6, 2, bias=False).to(dtype)
    layer.weight.data.zero_()
    layer.to(memory_format=memory_format)
    gradient = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    optimizer = APTS([{"params": [layer.weight], "direction": "muon"}], variant="stochastic",
                     radius=0.01, judge=False, schedule=False)

    def closure(backward=True):
        loss = (layer.weight * gradient).sum()
        if backward:
            loss.backward()
        return loss.detach()

    optimizer.step(closure)
    return layer.weight.detach(), gradient


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_step_is_the_scaled_direction_of_the_matrix_of_output_channels(memory_format):
    step, gradient = kernel_step(memory_format)
    assert step.is_contiguous(memory_format=memory_format)
    expected = -0.01 * 0.2 * 12**0.5 * orthogonalize(gradient.reshape(1, 6, 12))[0]
    torch.testing.assert_close(step.reshape(6, 12), expected, rtol=1e-4, atol=1e-6)


def test_a_16_bit_kernel_takes_the_same_step_rounded():
    step, _ = kernel_step(torch.contiguous_format, torch.bfloat16)
    exact, _ = kernel_step(torch.contiguous_format)
    torch.testing.assert_close(step.float(), exact, rtol=0.05, atol=1e-5)


def test_where_muon_is_refused():
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="matrices"):
        APTS([{"params": layer.parameters(), "direction": "muon"}], variant="stochastic")
    with pytest.raises(ValueError, match="stochastic"):
        APTS([{"params": [layer.weight], "direction": "muon"}])
    with pytest.raises(ValueError, match="adam, muon"):
        APTS([{"params": [layer.weight], "direction": "sgd"}], variant="stochastic")


def train_and_resume(rank):
    settings = {"rounds_per_length": 4, "muon": True, "samples": 16 * 150}
    straight, other = (Task(rank.rank, **settings) for _ in range(2))
    digests = []
    for _ in range(26):
        if straight.step()["agreed"]:
            digests.append(straight.digest())
    other.take_over(straight)
    for _ in range(20):
        straight.step()
        other.step()
    return digests, straight.digest() == other.digest()


def test_ranks_agree_and_go_on_bit_for_bit(on_ranks):
    results = on_ranks(train_and_resume, 2)
    assert results[0][0] == results[1][0]
    assert len(set(results[0][0])) == len(results[0][0]) > 8
    assert all(same for _, same in results)


def test_a_single_rank_learns():
    task = Task(samples=16 * 300, muon=True)
    inputs, targets = task.batch()
    before = nn.functional.cross_entropy(task.model(inputs), targets).item()
    for _ in range(280):
        task.step()
    assert nn.functional.cross_entropy(task.model(inputs), targets).item() < before / 2


class Net(nn.Module):
    """Three matrices, of which the first may be an embedding, and normalisation between them."""

    def __init__(self, first, normalization):
        super().__init__()
        self.first, self.normalization = first(4, 6), normalization(6)
        self.hidden, self.last = nn.Linear(6, 6), nn.Linear(6, 2)


@pytest.mark.parametrize(("direction", "first", "normalization", "muon"), [
    ("muon", nn.Linear, nn.BatchNorm1d, True), ("muon", nn.Embedding, nn.LayerNorm, True),
    ("auto", nn.Embedding, nn.LayerNorm, True), ("auto", nn.Linear, nn.RMSNorm, True),
    ("auto", nn.Linear, nn.BatchNorm1d, True), ("auto", nn.Linear, nn.Softmax, False),
    ("adam", nn.Embedding, nn.LayerNorm, False)])
def test_the_backend_gives_muon_the_matrices_between_first_and_last_layer(
        direction, first, normalization, muon):
    model = Net(first, normalization)
    chosen = {key: knob.default for key, knob in apts.hyperparameters.items()}
    assert chosen["direction"] == "auto"
    stepper = apts.build(model, nn.functional.cross_entropy, chosen | {"direction": direction},
                         World(0, 1, torch.device("cpu"), 16, budget_samples=1000))
    groups = stepper.optimizer.param_groups
    assert [p.shape for g in groups if g.get("direction") == "muon" for p in g["params"]] == [
        model.hidden.weight.shape] * muon
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(("suite_batch", "ranks", "values", "expected"), [
    (128, 4, {}, 128), (128, 16, {}, 128), (32, 16, {}, 32), (32, 32, {}, 64),
    (100, 8, {}, 104), (64, 2, {"preset": "2026-11"}, 128), (64, 16, {"preset": "2026-11"}, 256),
])
def test_the_minibatch_is_the_suites_unless_ranks_would_have_fewer_than_two_samples(
        suite_batch, ranks, values, expected):
    chosen = {key: knob.default for key, knob in apts.hyperparameters.items()}
    chosen |= apts.presets.get(values.get("preset", ""), {})
    assert apts.batch_size(suite_batch, chosen, ranks) == expected


@pytest.mark.parametrize(("network", "matrices"), [
    # Of each block: queries, keys and values together, the projection, and two of the MLP.
    (lambda: transformer.gpt(11, 8, 2, 16, 2), 8),
    (lambda: transformer.vit((3, 8, 8), 10, width=12, depth=2), 8),
])
def test_a_transformers_matrices_are_those_of_its_blocks(network, matrices):
    model = network()
    _, muon = muon_groups(model, "auto")
    blocks = {id(p) for name, p in model.named_parameters() if name.startswith("body.")}
    assert len(muon["params"]) == matrices
    assert {id(p) for p in muon["params"]} <= blocks
