"""The models: layers, shapes, and one clear line for what cannot be built."""

import pytest
import torch

from bench_apts.core.errors import UserError
from bench_apts.suites import models

IMAGES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


@pytest.mark.parametrize(("name", "shape", "linear"), [
    ("mlp", (64,), (64, 32)),
    ("cnn-small", IMAGES["mnist"], (256, 64)),
    ("cnn", IMAGES["cifar10"], (1024, 64)),
    ("resnet", IMAGES["cifar10"], (64, 10)),
    ("resnet18", IMAGES["cifar10"], (512, 10)),
])
def test_logits_and_first_dense_widths(name, shape, linear):
    model = models.build(name, {}, shape, 10).eval()
    assert model(torch.randn(2, *shape)).shape == (2, 10)
    dense = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert linear[0] in {layer.in_features for layer in dense}
    assert linear[1] in {layer.out_features for layer in dense}


def test_same_seed_same_weights():
    def weights():
        torch.manual_seed(3)
        model = models.build("cnn", {}, IMAGES["cifar10"], 10)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(), weights())


def test_mlp_flattens_images():
    model = models.build("mlp", {"hidden": [128, 128]}, IMAGES["mnist"], 10)
    assert models.count(model) == 118_282


@pytest.mark.parametrize(("depth", "parameters"), [(3, 272_474), (9, 855_770)])
def test_residual_networks_have_the_sizes_of_the_literature(depth, parameters):
    # ResNet-20 and -56: 0.27 and 0.85 million (He et al., table 6), whose shortcuts have no
    # parameters; the two 1x1 convolutions here have 16*32 + 32*64, with BatchNorm 192 more.
    model = models.build("resnet", {"blocks": [depth] * 3}, IMAGES["cifar10"], 10)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 6 * depth + 1 + 2
    assert models.count(model) == parameters


def test_a_stride_of_the_stem_and_each_stage_halve_the_resolution():
    model = models.build("resnet", {"stride": 2}, IMAGES["cifar10"], 10)
    assert model[:-3](torch.randn(1, 3, 32, 32)).shape == (1, 64, 4, 4)


@pytest.mark.parametrize(("name", "options", "shape", "words"), [
    ("mpl", {}, (64,), "did you mean mlp"),
    ("mlp", {"hiddn": [3]}, (64,), "did you mean hidden"),
    ("mlp", {"hidden": [0]}, (64,), "positive integers"),
    ("mlp", {"hidden": "64"}, (64,), "positive integers"),
    ("mlp", {"hidden": 64}, (64,), "positive integers"),
    ("cnn", {"hidden": [3]}, IMAGES["cifar10"], "option of model 'cnn'"),
    ("cnn", {}, (64,), "takes images"),
    ("resnet", {}, (64,), "takes images"),
    ("resnet", {"blocks": []}, IMAGES["cifar10"], "positive integers"),
    ("resnet", {"blocks": 3}, IMAGES["cifar10"], "positive integers"),
    ("resnet", {"blocks": [1], "stride": 0}, IMAGES["cifar10"], "positive integers"),
    ("resnet18", {}, (64,), "takes images"),
    ("cnn-small", {}, (1, 8, 8), "too small"),
])
def test_what_cannot_be_built_is_one_clear_line(name, options, shape, words):
    with pytest.raises(UserError, match=words) as caught:
        models.build(name, options, shape, 10)
    assert "\n" not in str(caught.value)
