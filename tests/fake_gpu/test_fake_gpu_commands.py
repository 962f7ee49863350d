"""Commands where there is a stand-in GPU: the self-test, and trials side by side."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUN = ("run", "--optimizers", "sgd", "--trials", "0", "--seeds", "1", "--offline", "--gpus")


@pytest.mark.slow
def test_the_self_test_runs_as_far_as_it_needs_no_numbers(stand_in, run_command, tmp_path):
    out = tmp_path / "found.json"
    done = run_command(stand_in, "selftest", "--check", "memory", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["gpus"] == ["NVIDIA Stand-in"] * 2
    assert [row["status"] for row in found["checks"]] == ["ok"]


@pytest.mark.slow
def test_trials_side_by_side_have_a_gpu_each(stand_in, run_command, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    done = run_command(
        stand_in | {"NOTES": str(notes)}, "tune", "--optimizers", str(HERE / "noting_sgd.py"),
        "--gpus", "1", "--trials", "5", "--jobs", "2", "--offline", "--out",
        str(tmp_path / "results"), "--set", "suite.budget.samples=640",
        "--set", "suite.evaluation.every_samples=320")
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [json.loads(note.read_text()) for note in notes.iterdir()]
    assert len(seen) == 5
    by_gpu = {gpu: sorted(note[1:] for note in seen if note[0] == gpu) for gpu, *_ in seen}
    assert len(by_gpu) == 2
    for times in by_gpu.values():
        assert all(ended <= began for (_, ended), (began, _) in pairwise(times))


@pytest.mark.slow
def test_without_nvidia_smi_the_driver_s_gpus_are_found(stand_in, run_command, tmp_path):
    found = run_command(stand_in, *RUN, "4", "--out", str(tmp_path))
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert "this machine has 2 GPUs" in found.stderr
    assert "--device cpu" in found.stderr


def test_a_driver_that_torch_cannot_use_is_found_before_the_first_trial(
        stand_in, run_command, tmp_path):
    listed = stand_in | {"PATH": f"{HERE}:{stand_in['PATH']}", "FAKE_SMI": "2", "FAKE_GPUS": "0"}
    found = run_command(listed, *RUN, "2", "--out", str(tmp_path))
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert "cannot use them" in found.stderr
    assert not list(tmp_path.rglob("*.jsonl"))
