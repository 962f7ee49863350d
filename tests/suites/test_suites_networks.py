"""The networks of the new suites: sizes by hand-worked formulas, shapes, gradients, refusals."""

import math

import pytest
import torch

from bench_apts.core.errors import UserError
from bench_apts.suites import models
from bench_apts.suites.generated import collocation
from bench_apts.suites.networks import gin, pinn, tabular, transformer, unet

TOKENS = torch.arange(10).reshape(2, 5) % 7


def block(d, expansion=4):
    """Return the parameters of a block: two LayerNorms, qkv, output, two feed-forward layers."""
    attention = 2 * d + (3 * d * d + 3 * d) + (d * d + d)
    if not expansion:
        return attention
    return attention + 2 * d + 2 * expansion * d * d + (expansion + 1) * d


def unet_size(c, w, depth):
    def pair(n, m):
        return 9 * n * m + 9 * m * m + 4 * m  # two convolutions, two GroupNorms

    widths = [w << level for level in range(depth + 1)]
    down = pair(c, w) + sum(pair(m // 2, m) for m in widths[1:])
    up = sum(4 * 2 * m * m + m + pair(2 * m, m) for m in widths[:-1])
    return down + up + w * c + c


# name: (module, arguments of forward, shape of the result, parameters)
CASES = {
    "gpt": (lambda: transformer.gpt(7, 6, 2, 16, 4), (TOKENS,), (2, 5, 7),
            7 * 16 + 6 * 16 + 2 * block(16) + 2 * 16),
    "gpt-untied": (lambda: transformer.gpt(7, 6, 2, 16, 4, tied=False), (TOKENS,), (2, 5, 7),
                   2 * 7 * 16 + 6 * 16 + 2 * block(16) + 2 * 16),
    "attention": (lambda: transformer.attention(7, 6, width=16), (TOKENS,), (2, 5, 7),
                  2 * 7 * 16 + 6 * 16 + 2 * block(16, 0) + 2 * 16),
    "vit": (lambda: transformer.vit((3, 8, 12), 10, 4, 24, 2, 3), (torch.randn(2, 3, 8, 12),),
            (2, 10), 48 * 24 + 24 + 6 * 24 + 2 * block(24) + 2 * 24 + 24 * 10 + 10),
    "mlp": (lambda: tabular.mlp(10, 1, (8, 4)), (torch.randn(2, 10),), (2, 1),
            (10 * 8 + 8) + (8 * 4 + 4) + (4 + 1)),
    "ft_transformer": (lambda: tabular.ft_transformer(10, 3, 16, 2, 4), (torch.randn(2, 10),),
                       (2, 3), 2 * 10 * 16 + 16 + 2 * block(16) + 2 * 16 + 16 * 3 + 3),
    "unet": (lambda: unet.unet(2, 8, 2), (torch.randn(2, 2, 12, 8),), (2, 2, 12, 8),
             unet_size(2, 8, 2)),
    "gin": (lambda: gin.gin(2, 3, 8, 2),
            (torch.randn(2, 5, 7),), (2, 3),
            2 + (2 * 8 + 8) + (8 * 8 + 8) + 3 * (8 * 8 + 8) - (8 * 8 + 8) + 2 * 16 + 16 * 3 + 3),
    "pinn": (lambda: pinn.pinn(), (torch.rand(2, 2),), (2, 1), 150 + 2 * 2_550 + 51),
    "resnet": (lambda: models.resnet((3, 16, 16), 10, norm="group"), (torch.randn(2, 3, 16, 16),),
               (2, 10), 78_042),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes_sizes_and_a_gradient_for_every_parameter(name):
    make, arguments, shape, size = CASES[name]
    torch.manual_seed(0)
    model = make()
    result = model(*arguments)
    assert result.shape == shape
    assert result.dtype == torch.float32
    assert models.count(model) == size
    (result * torch.randn(shape)).sum().backward()
    for label, parameter in model.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        assert parameter.grad.abs().max() > 0, label


@pytest.mark.parametrize("name", CASES)
def test_a_sample_does_not_depend_on_its_batch(name):
    make, arguments, *_ = CASES[name]
    torch.manual_seed(0)
    model = make()
    alone = model(*(argument[:1] for argument in arguments))
    assert torch.allclose(model(*arguments)[:1], alone, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_weights(name):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in CASES[name][0]().parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_the_suggested_sizes():
    assert models.count(unet.unet(1)) == unet_size(1, 16, 2) == 117_073
    assert models.count(transformer.vit((3, 32, 32), 10)) == (
        48 * 96 + 96 + 64 * 96 + 4 * block(96) + 192 + 970)
    assert models.count(transformer.gpt(28, 64)) == 28 * 64 + 64 * 64 + 2 * block(64) + 128


# --- transformers


@pytest.mark.parametrize("make", [transformer.gpt, transformer.attention])
def test_a_token_does_not_change_what_precedes_it(make):
    torch.manual_seed(0)
    model = make(7, 6, width=16)
    changed = TOKENS.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 7
    before, after = model(TOKENS), model(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_the_vision_transformer_sees_all_patches_and_their_places():
    torch.manual_seed(0)
    model = transformer.vit((1, 8, 8), 3, 4, 16, 1, 2)
    image = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(model(image), model(image.flip(-1)))
    image.requires_grad_()
    model(image).sum().backward()
    assert (image.grad != 0).all()


def test_initialisation_is_that_of_gpt2():
    torch.manual_seed(0)
    model = transformer.gpt(50, 32, layers=3, width=128, heads=4)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            norm = name.endswith("weight")
            assert (parameter == (1 if norm else 0)).all(), name
        else:
            writes = "outer" in name or "feedforward.3" in name
            expected = 0.02 / math.sqrt(6) if writes else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
    # Hence the loss starts at that of guessing.
    logits = model(torch.arange(32)[None])
    loss = torch.nn.functional.cross_entropy(logits[0], torch.arange(1, 33))
    assert loss.item() == pytest.approx(math.log(50), abs=0.2)


def test_the_head_of_a_tied_gpt_has_the_weights_of_the_embedding():
    tied, free = (transformer.gpt(7, 6, 1, 16, 4, tied=tied) for tied in (True, False))
    assert tied.head.weight is tied.tokens.weight
    assert free.head.weight is not free.tokens.weight


# --- graphs


def test_the_graph_network_is_invariant_to_the_order_of_nodes():
    torch.manual_seed(0)
    model = gin.gin(2, 3)
    adjacency = torch.bernoulli(torch.full((1, 9, 9), 0.3)).triu(1)
    adjacency += adjacency.mT.clone()
    features, order = torch.randn(1, 9, 2), torch.randperm(9)
    expected = model(torch.cat([adjacency, features], dim=2))
    reordered = torch.cat([adjacency[:, :, order], features], dim=2)[:, order]
    assert torch.allclose(model(reordered), expected, atol=1e-5)


def test_rounds_of_messages_are_what_tells_graphs_of_equal_degrees_apart():
    # A path of five edges with one more leaf at its second node or at its third: degrees
    # 3, 2, 2, 1, 1, 1. One round sees the degrees only, two see those of the neighbours.
    edges = [[(0, 1), (1, 2), (2, 3), (3, 4), (1, 5)], [(0, 1), (1, 2), (2, 3), (3, 4), (2, 5)]]
    adjacency = torch.zeros(2, 6, 6)
    for graph, pairs in zip(adjacency, edges, strict=True):
        for i, j in pairs:
            graph[i, j] = graph[j, i] = 1
    assert torch.equal(*adjacency.sum(dim=1).sort().values)
    torch.manual_seed(0)
    inputs = torch.cat([adjacency, torch.ones(2, 6, 1)], dim=2)
    one, two = (gin.gin(1, 3, layers=layers)(inputs) for layers in (1, 2))
    assert torch.allclose(one[0], one[1], atol=1e-6)
    assert not torch.allclose(two[0], two[1], atol=1e-3)


# --- physics


def sines(points):
    return torch.sin(math.pi * points).prod(dim=1, keepdim=True)


def batch(count):
    return tuple(map(torch.from_numpy, collocation.collocation(count)["train"]))


def test_the_residuals_of_the_analytic_solution_vanish():
    points, targets = batch(400)
    boundary = targets[:, 0] == 0
    values, second = pinn.laplacian(sines, points.double())
    assert torch.allclose(second, -2 * math.pi**2 * values, atol=1e-9)
    losses = pinn.poisson_losses(sines, points, targets)
    assert losses.shape == (400,)
    assert losses.max() < 1e-6
    # Those of another function do not, on neither side.
    losses = pinn.poisson_losses(lambda x: 1 + sines(x).square(), points, targets)
    assert losses.detach()[boundary] == pytest.approx(100, rel=1e-4)
    assert losses[~boundary].mean() > 1


def test_second_derivatives_of_the_network_are_those_of_finite_differences():
    torch.manual_seed(0)
    model, step = pinn.pinn().double(), 1e-4
    points = torch.rand(20, 2, dtype=torch.float64)
    with torch.no_grad():  # as in an evaluation
        values, second = pinn.laplacian(model, points)
        expected = -4 * model(points)
        for shift in ([step, 0], [-step, 0], [0, step], [0, -step]):
            expected += model(points + torch.tensor(shift))
    assert torch.allclose(values, model(points))
    assert torch.allclose(second, expected / step**2, atol=1e-5)


def test_the_loss_of_derivatives_has_a_gradient_that_finite_differences_confirm():
    torch.manual_seed(0)
    model = pinn.pinn(hidden=(5, 4)).double()
    points, targets = (part.double() for part in batch(30))
    pinn.poisson_losses(model, points, targets).mean().backward()
    for label, parameter in model.named_parameters():
        direction, step = torch.randn_like(parameter), 1e-6
        around = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
            around.append(pinn.poisson_losses(model, points, targets).mean().item())
            with torch.no_grad():
                parameter -= sign * step * direction
        slope = (around[0] - around[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4), label


# --- options and refusals


def test_group_norm_changes_nothing_but_the_normalisation():
    torch.manual_seed(0)
    batch = models.resnet((3, 16, 16), 10, norm="batch")
    torch.manual_seed(0)
    group = models.resnet((3, 16, 16), 10, norm="group")
    assert [p.shape for p in batch.parameters()] == [p.shape for p in group.parameters()]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in group.modules())
    assert not list(group.buffers())
    norms = [m for m in group.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert [m.num_groups for m in norms] == [8] * 9
    assert models.resnet((3, 16, 16), 10, width=4, norm="group")[1].num_groups == 4


IMAGES = torch.randn(2, 3, 8, 8)
OPTIONS = {  # what makes the network of some options, and an input
    "mlp": (lambda **options: models.mlp((6,), 3, [5, 4], **options), torch.randn(2, 6)),
    "cnn-small": (lambda **options: models.cnn_small((3, 16, 16), 4, **options),
                  torch.randn(2, 3, 16, 16)),
    "cnn": (lambda **options: models.cnn((3, 16, 16), 4, **options), torch.randn(2, 3, 16, 16)),
    "resnet": (lambda **options: models.resnet((3, 8, 8), 4, [1, 1], 8, **options), IMAGES),
    "gpt": (lambda **options: transformer.gpt(7, 6, 1, 16, 4, **options), TOKENS),
    "vit": (lambda **options: transformer.vit((3, 8, 8), 4, 4, 16, 1, 4, **options), IMAGES),
    "tabular": (lambda **options: tabular.mlp(6, 1, [5], **options), torch.randn(2, 6)),
    "gin": (lambda **options: gin.gin(1, 3, 8, 2, **options), torch.rand(2, 4, 5)),
    "unet": (lambda **options: unet.unet(3, 8, 1, **options), IMAGES),
}


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_an_activation_changes_the_function_and_not_the_weights(name, activation):
    make, inputs = OPTIONS[name]
    found = []
    for options in ({}, {"activation": activation}):
        torch.manual_seed(3)
        found.append(make(**options))
    for one, other in zip(*(model.parameters() for model in found), strict=True):
        assert torch.equal(one, other)
    default = {"gpt": "gelu", "vit": "gelu", "unet": "silu"}.get(name, "relu")
    same = torch.equal(*(model(inputs) for model in found))
    assert same == (activation == default)


@pytest.mark.parametrize(("name", "norm", "more"), [
    ("mlp", "none", 0), ("mlp", "layer", 2 * (5 + 4)), ("mlp", "rms", 5 + 4),
    ("tabular", "layer", 2 * 5), ("gpt", "rms", -3 * 16), ("vit", "rms", -3 * 16),
    ("resnet", "none", -2 * (3 * 8 + 3 * 16)), ("unet", "none", -2 * (4 * 8 + 2 * 16)),
    ("resnet", "group", 0), ("unet", "batch", 0)])
def test_a_norm_has_the_parameters_that_it_should(name, norm, more):
    make, inputs = OPTIONS[name]
    model = make(norm=norm)
    assert models.count(model) == models.count(make()) + more
    assert torch.isfinite(model(inputs)).all()


@pytest.mark.parametrize(("name", "option"), [
    *((name, "activation") for name in OPTIONS),
    *((name, "norm") for name in OPTIONS if name not in ("cnn", "cnn-small", "gin"))])
def test_unknown_options_of_networks_are_named(name, option):
    with pytest.raises(UserError, match=f"{option} of .* 'tahn'"):
        OPTIONS[name][0](**{option: "tahn"})


@pytest.mark.parametrize(("call", "words"), [
    (lambda: transformer.gpt(0, 6), "vocabulary"),
    (lambda: transformer.gpt(7, 6.5), "context"),
    (lambda: transformer.gpt(7, 6, width=10, heads=4), "must divide width"),
    (lambda: transformer.gpt(7, 6, expansion=-1), "expansion"),
    (lambda: transformer.vit((3, 32), 10), "takes images"),
    (lambda: transformer.vit((3, 32, 30), 10), "must divide columns"),
    (lambda: transformer.vit((3, 30, 32), 10), "must divide height"),
    (lambda: tabular.ft_transformer(10, True), "outputs"),
    (lambda: tabular.mlp(10, 1, hidden=[0]), "hidden"),
    (lambda: tabular.mlp(10, 1, activation="rleu"), "did you mean relu"),
    (lambda: unet.unet(1, depth=0), "depth"),
    (lambda: unet.unet(1)(torch.zeros(1, 1, 10, 8)), "multiples of 4"),
    (lambda: gin.gin(1, 3, layers=0), "layers"),
    (lambda: pinn.pinn(activation="relu"), "second derivative"),
    (lambda: pinn.pinn(inputs=0), "inputs"),
    (lambda: models.resnet((3, 8, 8), 10, norm="layer"), "norm of model 'resnet'"),
    (lambda: models.resnet((3, 8, 8), 10, norm=["group"]), "norm of model 'resnet'"),
    (lambda: models.mlp((4,), 2, output=["logits"]), "output of model 'mlp'"),
    (lambda: models.mlp((4,), 2, activation=1), "activation of model 'mlp'"),
])
def test_what_cannot_be_built_is_one_clear_line(call, words):
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
