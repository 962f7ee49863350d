"""The models: layers, shapes, and one clear line for what cannot be built."""

import pytest
import torch

from bench_apts.errors import UserError
from bench_apts.suites import models

IMAGES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


@pytest.mark.parametrize(("name", "shape", "linear"), [
    ("mlp", (64,), (64, 32)),
    ("cnn-small", IMAGES["mnist"], (256, 64)),
    ("cnn", IMAGES["cifar10"], (1024, 64)),
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


@pytest.mark.parametrize(("name", "options", "shape", "words"), [
    ("mpl", {}, (64,), "did you mean mlp"),
    ("mlp", {"hiddn": [3]}, (64,), "did you mean hidden"),
    ("mlp", {"hidden": [0]}, (64,), "positive integers"),
    ("mlp", {"hidden": "64"}, (64,), "positive integers"),
    ("mlp", {"hidden": 64}, (64,), "positive integers"),
    ("cnn", {"hidden": [3]}, IMAGES["cifar10"], "option of model 'cnn'"),
    ("cnn", {}, (64,), "takes images"),
    ("resnet18", {}, (64,), "takes images"),
    ("cnn-small", {}, (1, 8, 8), "too small"),
])
def test_what_cannot_be_built_is_one_clear_line(name, options, shape, words):
    with pytest.raises(UserError, match=words) as caught:
        models.build(name, options, shape, 10)
    assert "\n" not in str(caught.value)
