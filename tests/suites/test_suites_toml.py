"""The shipped suites: they load, and are what their summaries promise."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bench_apts.suites
from bench_apts.core.errors import UserError
from bench_apts.plugins import registry
from bench_apts.study.suite_network_checks import rehearse_batch
from bench_apts.suites import data, models, user_data
from bench_apts.suites.generated import friedman, text
from bench_apts.suites.known_data import KNOWN
from bench_apts.suites.networks import nanogpt
from bench_apts.suites.suite_problem import SuiteProblem, resolved

FILES = sorted(Path(bench_apts.suites.__file__).parent.glob("*.toml"))
EXPECTED = {  # parameters, batch, budget in samples
    "digits": (6_570, 64, 28_000),
    "digits@tanh": (6_570, 64, 28_000),
    "digits@layernorm": (6_762, 64, 28_000),
    "digits@wide": (85_002, 64, 28_000),
    "digits@init-x3": (6_570, 64, 28_000),
    "digits@loss-x100": (6_570, 64, 28_000),
    "digits-noniid": (6_570, 64, 28_000),
    "digits-longtail": (6_570, 64, 28_000),
    "mnist": (118_282, 128, 240_000),
    "mnist@tanh": (118_282, 128, 240_000),
    "mnist@layernorm": (118_794, 128, 240_000),
    "mnist@wide": (669_706, 128, 240_000),
    "mnist@init-x3": (118_282, 128, 240_000),
    "mnist@loss-x100": (118_282, 128, 240_000),
    "mnist-cnn": (20_522, 128, 60_000),
    "cifar10": (106_202, 128, 80_000),
    "cifar10-resnet8": (78_042, 128, 80_000),
    "cifar10-resnet8@tanh": (78_042, 128, 80_000),
    "cifar10-resnet8@no-norm": (77_370, 128, 80_000),
    "cifar10-resnet8@narrow": (19_954, 128, 80_000),
    "cifar10-resnet8@init-x3": (78_042, 128, 80_000),
    "cifar10-resnet8@loss-x100": (78_042, 128, 80_000),
    "cifar10-groupnorm": (78_042, 128, 80_000),
    "cifar10-resnet18": (11_173_962, 128, 1_500_000),
    "vit-tiny": (459_370, 32, 10_000),
    "text-char": (105_984, 32, 24_000),
    "text-char@relu": (105_984, 32, 24_000),
    "text-char@rmsnorm": (105_664, 32, 24_000),
    "text-char@narrow": (28_416, 32, 24_000),
    "text-char@init-x3": (105_984, 32, 24_000),
    "text-char@loss-x100": (105_984, 32, 24_000),
    "shakespeare-char": (108_352, 32, 20_000),
    "shakespeare-char@gpu": (10_770_816, 64, 320_000),
    "nanogpt-track3": (162_354_816, 512, 3_072_000),
    "mqar": (43_904, 64, 60_000),
    "unet-denoise": (117_073, 32, 9_600),
    "graph": (5_830, 64, 120_000),
    "tabular": (18_049, 64, 400_000),
    "tabular@tanh": (18_049, 64, 400_000),
    "tabular@layernorm": (18_561, 64, 400_000),
    "tabular@narrow": (1_441, 64, 400_000),
    "tabular@init-x3": (18_049, 64, 400_000),
    "tabular@loss-x100": (18_049, 64, 400_000),
    "poisson2d": (5_301, 128, 400_000),
    "paper-mnist": (535_818, 9_900, 8 * 10 * 59_400),
    "paper-mnist-full": (535_818, 59_400, 8 * 25 * 59_400),
    "paper-cifar10": (1_841_162, 9_900, 8 * 10 * 49_500),
}

NETWORK = ("suite.model.options.layers=1", "suite.model.options.width=16")
FEWER = {  # what makes data of a second or more small
    "text-char": ("suite.data.options.characters=50_000", "suite.data.validation=100"),
    "mqar": ("suite.data.options.train=300", "suite.data.validation=50"),
    "graph": ("suite.data.options.train=300", "suite.data.validation=50"),
    "tabular": ("suite.data.options.rows=400", "suite.data.validation=50"),
    "poisson2d": ("suite.data.options.points=400", "suite.data.options.grid=5"),
    "shakespeare-char": ("suite.data.options.context=16",),
    "nanogpt-track3": ("suite.data.options.context=16", "suite.data.validation=4",
                       "suite.model.options.vocabulary=128", "suite.model.options.heads=2",
                       *NETWORK),
    "vit-tiny": ("suite.data.validation=4",),
    "unet-denoise": ("suite.data.options.train=12", "suite.data.options.test=4",
                     "suite.data.validation=4"),
    "digits-noniid": (),
    "digits-longtail": (),
}
"""The suites that the tests of other modules do not train."""


def test_all_suites_are_there():
    names = [path.stem for path in FILES]
    assert {*names, *(each for name in names for each in registry.variant_names(name))} == set(
        EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_suite(name):
    suite = registry.suite(name)
    parameters, batch, samples = EXPECTED[name]
    known = KNOWN.get(suite.data.name)
    with torch.device("meta"):
        model = (SuiteProblem(suite).call("model", suite.model.options) if suite.model.source else
                 models.build(suite.model.name, suite.model.options,
                              *((known.shape, known.classes) if known else ((64,), 10))))
    assert suite.name == name
    assert models.count(model) == parameters
    assert f"{parameters:,}" in suite.summary
    assert (suite.batch_size, suite.budget.samples) == (batch, samples)
    # At least a dozen points on every curve, and two evaluations must fit for a hit.
    assert suite.budget.samples / suite.evaluation.every_samples >= 12
    assert suite.target.provenance.note
    assert SuiteProblem(suite).metric()


@pytest.fixture
def folder(tmp_path, mini, write_parquet):
    """A user's folder of data with a few samples of all that suites take from there."""
    write_parquet(tmp_path / "mnist" / "mnist", mini.mnist, "image")
    write_parquet(tmp_path / "cifar10" / "plain_text", mini.cifar10, "img")
    rng = np.random.default_rng(0)
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(
        "".join(rng.choice(list("To be, or not\n"), 3_000)), encoding="utf-8")
    (tmp_path / "fineweb10B").mkdir()
    for part in ("train", "val"):
        header = np.zeros(256, "<i4")
        header[:3] = 20_240_520, 1, 500
        (tmp_path / "fineweb10B" / f"fineweb_{part}_000000.bin").write_bytes(
            header.tobytes() + rng.integers(0, 128, 500).astype("<u2").tobytes())
    return tmp_path


def prepared(suite, data_dir):
    if suite.data.source:
        return user_data.prepare(suite, SuiteProblem(suite), data_dir, offline=True)
    return data.prepare(suite.data.name, data_dir, offline=True)


@pytest.mark.parametrize("name", FEWER)
def test_a_batch_passes_through_network_and_task(name, folder):
    suite = resolved(registry.suite(name, FEWER[name]), "")
    dataset = data.load(prepared(suite, folder).folder)
    assert rehearse_batch(SuiteProblem(suite), dataset) > 0
    if name == "digits-longtail":
        sizes = np.bincount(dataset.train_targets).tolist()
        assert sizes == [round(sizes[0] * 20 ** (-k / 9)) for k in range(10)]
        assert set(np.bincount(dataset.validation_targets)) <= {29, 30, 31}
    if name == "shakespeare-char":
        # Of 3,000 characters 2,400, 300 and 300, each with one more than its whole windows take.
        assert [len(part) for part in (dataset.train_inputs, dataset.validation_inputs,
                                       dataset.test_inputs)] == [149, 18, 18]
    if name == "poisson2d":
        assert (dataset.mean, dataset.std) == ((0.0,), (1.0,))


@pytest.mark.parametrize(("name", "file"), [
    ("nanogpt-track3", "fineweb10B/fineweb_*.bin"),
    ("shakespeare-char", "tinyshakespeare/input.txt")])
@pytest.mark.parametrize("named", [True, False])
def test_missing_data_say_where_they_belong(name, file, named, tmp_path):
    with pytest.raises(UserError) as caught:
        prepared(registry.suite(name), tmp_path if named else None)
    assert str(tmp_path / file if named else file) in str(caught.value)
    assert "--data-dir" in str(caught.value)


@pytest.mark.parametrize(("name", "made"), [
    ("text-char", lambda: text.grammar_text(20_000)),
    ("tabular", lambda: friedman.friedman(9, 9))])
def test_declared_floors_are_those_of_the_data(name, made):
    assert registry.suite(name).target.floor == pytest.approx(made().floor, abs=1e-4)


def test_the_untrained_network_of_the_track_finds_all_tokens_equally_likely():
    torch.manual_seed(0)
    model = nanogpt.nanogpt(128, 2, 32, 2)
    logits = model(torch.arange(40).reshape(2, 20))
    assert torch.equal(logits, torch.zeros(2, 20, 128))
    torch.nn.init.normal_(model.head.weight)
    for block in model.blocks:
        for layer in block.writing():
            torch.nn.init.normal_(layer.weight, std=0.2)
    tokens = torch.arange(20)[None] % 7
    before = model(tokens)
    changed = tokens.clone()
    changed[0, 12:] = 9
    # No token sees a later one, and the place of a token matters.
    torch.testing.assert_close(model(changed)[:, :12], before[:, :12])
    assert not torch.allclose(before[0, 7], before[0, 14])
    assert before.abs().max() < 15
    with pytest.raises(UserError, match="multiple of 4"):
        nanogpt.nanogpt(128, 1, 12, 2)


def test_importing_suites_and_data_imports_no_torch():
    code = ("import sys, bench_apts.suites, bench_apts.suites.data; "
            "from bench_apts.suites.generated import "
            "collocation, derived, friedman, graphs, recall, text; "
            "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
