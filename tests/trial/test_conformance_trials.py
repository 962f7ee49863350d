"""One model is evaluated, and how often it is does not change what a step sends."""

import os
import shutil
from pathlib import Path

import pytest

from bench_apts.core import store
from bench_apts.core.records import method_bytes, train_bytes

SHORT = ("--gpus", "2", "--trials", "0", "--seeds", "1", "--no-twins", "--no-report",
         "--offline", "--set", "suite.budget.samples=1280")
PARAMETERS = 6570


def test_bytes_of_a_step_do_not_depend_on_the_evaluations(command, tmp_path):
    plugin = shutil.copy(Path(__file__).with_name("fsdp_plugin.py"), tmp_path)
    for every in (128, 1280):
        command("run", "--optimizers", plugin, *SHORT, "--set",
                f"suite.evaluation.every_samples={every}", "--out", tmp_path / str(every))
        (record,) = store.read_trials(tmp_path / str(every) / "digits")
        last = record.evals[-1]
        # An all-gather and a reduce-scatter of all parameters, half of which each rank has.
        assert train_bytes(last.comm) == last.step * PARAMETERS * 4 * 2 / 2
        gathered = len(record.evals) * PARAMETERS * 4 / 2  # once for each evaluation
        assert method_bytes(last.comm) == train_bytes(last.comm) + gathered


@pytest.mark.skipif("BENCH_APTS_DATA" not in os.environ, reason="MNIST is not here")
def test_batchnorm_is_that_of_adam_under_zero(command, tmp_path):
    pytest.importorskip("deepspeed")
    command("run", "--suite", "mnist", "--data-dir", os.environ["BENCH_APTS_DATA"],
            "--optimizers", "adam[lr=0.036],zero1[lr=0.036],zero3[lr=0.036]", *SHORT,
            "--set", 'suite.model={name="resnet",options={blocks=[1],width=4,stride=4}}',
            "--set", "suite.batch_size=16", "--set", "suite.data.validation=1000",
            "--set", "suite.evaluation.every_samples=640", "--out", tmp_path)
    records = {r.trial.optimizer: r for r in store.read_trials(tmp_path / "mnist")}
    adam = records["adam"]
    for record in records.values():
        assert record.finished
        # Fused kernels round the ends of tensors otherwise, which ZeRO joins into one.
        for found, expected in zip(record.evals, adam.evals, strict=True):
            assert found.validation == pytest.approx(expected.validation, rel=1e-5)
        assert record.end.test == pytest.approx(adam.end.test, rel=1e-5)
        sent = record.evals[-1].comm["validate"]["broadcast"]
        assert sent.calls == 2 * len(record.evals)  # statistics, and counts of batches
