"""The shipped suites: they load, and are what their summaries promise."""

import subprocess
import sys
from pathlib import Path

import pytest

import bench_apts.suites
from bench_apts import suite_file
from bench_apts.suites import models
from bench_apts.suites.sources import KNOWN

FILES = sorted(Path(bench_apts.suites.__file__).parent.glob("*.toml"))
EXPECTED = {  # parameters, batch, budget in samples
    "digits": (6_570, 64, 28_000),
    "mnist": (118_282, 128, 240_000),
    "mnist-cnn": (20_522, 128, 60_000),
    "cifar10": (106_202, 128, 80_000),
    "cifar10-resnet8": (78_042, 128, 80_000),
    "cifar10-groupnorm": (78_042, 128, 80_000),
    "cifar10-resnet18": (11_173_962, 128, 1_500_000),
    "paper-mnist": (535_818, 9_900, 8 * 10 * 59_400),
    "paper-mnist-full": (535_818, 59_400, 8 * 25 * 59_400),
    "paper-cifar10": (1_841_162, 9_900, 8 * 10 * 49_500),
}


def test_all_suites_are_there():
    assert {path.stem for path in FILES} == set(EXPECTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_suite(path):
    suite = suite_file.load(path)
    parameters, batch, samples = EXPECTED[path.stem]
    facts = KNOWN[suite.data.name]
    model = models.build(suite.model.name, suite.model.options, facts.shape, facts.classes)
    assert suite.name == path.stem
    assert models.count(model) == parameters
    assert f"{parameters:,}" in suite.summary
    assert (suite.batch_size, suite.budget.samples) == (batch, samples)
    # At least a dozen points on every curve, and two evaluations must fit for a hit.
    assert suite.budget.samples / suite.evaluation.every_samples >= 12
    assert suite.target.provenance.note


def test_importing_suites_and_data_imports_no_torch():
    code = ("import sys, bench_apts.suites, bench_apts.suites.data; "
            "from bench_apts.suites.generated import "
            "collocation, denoising, friedman, graphs, recall, skew, text; "
            "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
