"""Roles of parameters, worked out by hand for networks of every kind."""

import pytest
import torch
from mechanics_models import Slope
from one_rank import group
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench_apts.core.errors import UserError
from bench_apts.plugins.roles import roles
from bench_apts.tasks.loss_module import LossModule


class Gpt(nn.Module):
    """Embeddings, one block, a head that may share the embedding."""

    def __init__(self, tied):
        super().__init__()
        self.token, self.place = nn.Embedding(9, 4), nn.Embedding(5, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 8)
        self.head = nn.Linear(4, 9, bias=False)
        if tied:
            self.head.weight = self.token.weight


class Vit(nn.Module):
    """Parameters that the network holds itself."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 4, 2)
        self.cls, self.place = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(
            torch.zeros(1, 10, 4))
        self.mix = nn.Parameter(torch.zeros(4, 4))
        self.scale = nn.Parameter(torch.zeros(()))
        self.norm, self.head = nn.LayerNorm((2, 4)), nn.Linear(4, 1)


BLOCK = {"block.self_attn.in_proj_weight": "matrix", "block.self_attn.in_proj_bias": "vector",
         "block.self_attn.out_proj.weight": "matrix", "block.self_attn.out_proj.bias": "vector",
         "block.linear1.weight": "matrix", "block.linear1.bias": "vector",
         "block.linear2.weight": "matrix", "block.linear2.bias": "vector",
         "block.norm1.weight": "vector", "block.norm1.bias": "vector",
         "block.norm2.weight": "vector", "block.norm2.bias": "vector"}
EMBEDDED = {"token.weight": "embedding", "place.weight": "embedding", **BLOCK}
EXPECTED = [
    (lambda: Gpt(tied=False), {**EMBEDDED, "head.weight": "head"}),
    (lambda: Gpt(tied=True), EMBEDDED),
    (Vit, {"cls": "vector", "place": "embedding", "mix": "matrix", "scale": "vector",
           "patch.weight": "matrix", "patch.bias": "vector", "norm.weight": "vector",
           "norm.bias": "vector", "head.weight": "head", "head.bias": "vector"}),
    (lambda: nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)),
     {"0.weight": "matrix", "0.bias": "vector", "2.weight": "head", "2.bias": "vector"}),
    (lambda: nn.Sequential(nn.Linear(4, 9, bias=False), nn.Embedding(9, 4)),
     {"0.weight": "head", "1.weight": "embedding"}),
]


@pytest.mark.parametrize(("build", "expected"), EXPECTED)
def test_roles_are_these_by_the_names_of_the_parameters(build, expected):
    network = build()
    assert roles(network) == expected
    assert set(expected) == {name for name, _ in network.named_parameters()}


def test_wrappers_change_names_alone():
    network, expected = EXPECTED[1][0](), EXPECTED[1][1]
    assert roles(LossModule(network, Slope())) == {
        f"network.{name}": role for name, role in expected.items()}
    with group():
        assert roles(DistributedDataParallel(network)) == {
            f"module.{name}": role for name, role in expected.items()}


def test_a_network_may_say_it_itself():
    network = nn.Sequential(nn.Linear(2, 3), Vit())
    network[1].roles = {"mix": "head", "head.weight": "matrix"}
    found = roles(network)
    assert found["1.mix"] == "head"
    assert found["1.head.weight"] == "matrix"
    assert found["0.weight"] == "matrix"


@pytest.mark.parametrize(("claimed", "token"), [
    ({"mixed": "head"}, "mixed"), ({"mix": "tail"}, "tail")])
def test_what_a_network_says_wrongly_is_refused(claimed, token):
    network = Vit()
    network.roles = claimed
    with pytest.raises(UserError, match=token):
        roles(network)
