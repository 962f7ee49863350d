"""The product on a stand-in GPU: torch's own CUDA and NCCL code, whose kernels compute nothing.

It shows contexts before a fork, waits of the host, device memory, the course of process groups
and what the command says of GPUs; no numbers, no times.
"""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import fake_gpu_build
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory, environment):
    """The environment of a process that sees two GPUs."""
    folder = tmp_path_factory.mktemp("fake-gpu")
    try:
        variables = fake_gpu_build.build(folder)
    except fake_gpu_build.CannotBuild as error:
        pytest.skip(f"no stand-in GPU: {error}")
    kept = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    return kept | variables | {
        "FAKE_GPUS": "2", "PYTHONPATH": str(HERE), "PATH": f"{folder}:{os.environ['PATH']}"}


def start(folder, device, trials, environ):
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, HERE / "fake_gpu_trials.py", folder, device, json.dumps(trials)],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process, trials):
    out, errors = process.communicate(timeout=800)
    assert process.returncode == 0, errors
    return dict(zip([(Path(name).stem, ranks) for name, ranks, _ in trials], json.loads(out),
                    strict=True))


@pytest.fixture(scope="module")
def trials(stand_in, tmp_path_factory, environment):
    """Trials on the stand-in, and on gloo what is compared with them; by optimizer and ranks."""
    folder = tmp_path_factory.mktemp("trials")
    wanted = [("sgd", 1, None), ("adam", 1, ["1"]), ("apts", 1, None), ("sgd", 2, None),
              (str(HERE / "dying_sgd.py"), 2, None)]
    log = folder / "log"
    processes = {
        "cuda": (start(folder / "cuda", "cuda", wanted, stand_in | {
            "FAKE_GPU_STRICT": "1", "FAKE_GPU_LOG": str(log)}), wanted),
        "cpu": (start(folder / "cpu", "cpu", [("sgd", 2, None)], environment),
                [("sgd", 2, None)])}
    found = {device: ended(*process) for device, process in processes.items()}
    return found | {"pids": set(map(int, log.read_text().split()))}


@pytest.mark.parametrize("place", [("sgd", 1), ("adam", 1), ("apts", 1), ("sgd", 2)])
def test_a_trial_runs_to_its_end(trials, place):
    trial = trials["cuda"][place]
    assert trial["reason"] is None
    start = trial["record"]["start"]
    assert start["process_group"] == "nccl"
    assert start["numerics"]["gpu"] == "NVIDIA Stand-in"
    assert len(trial["ranks"]) == place[1]


@pytest.mark.parametrize(("name", "ranks", "most"), [("sgd", 1, 0), ("adam", 1, 0), ("sgd", 2, 0),
                                                     ("apts", 1, 1)])
def test_the_host_waits_for_nothing_in_a_step_but_for_apts_s_judgement(trials, name, ranks, most):
    for rank in trials["cuda"][name, ranks]["ranks"]:
        assert len(rank["steps"]) > 3
        for step in rank["steps"]:
            assert step["launches"]
            assert step["to_host"] <= most
            assert step["waits"] <= most
            assert not step["to_device"], "the data lies on the device"


def test_only_ranks_touch_cuda(trials):
    servers = {rank["server"] for trial in trials["cuda"].values() for rank in trial["ranks"]}
    assert trials["pids"]
    assert not servers & trials["pids"]


def test_a_trial_sees_the_gpus_that_it_was_given(trials):
    assert trials["cuda"]["adam", 1]["ranks"][0]["visible"] == "1"


def test_an_exception_of_one_rank_is_told_though_nccl_waits_for_all_ranks_to_leave(trials):
    trial = trials["cuda"]["dying_sgd", 2]
    assert trial["status"] == "error"
    assert "rank 1: ValueError: the cat sat on it" in trial["reason"]


def test_the_meter_counts_on_nccl_what_it_counts_on_gloo(trials):
    def calls(device):
        found = trials[device]["sgd", 2]["record"]["end"]["calls"]
        return sorted((call["phase"], call["operation"], call["dtype"], call["payload_bytes"],
                       call["calls"]) for call in found if call["phase"] in ("train", "validate"))

    assert calls("cuda")
    assert calls("cuda") == calls("cpu")


def test_peak_memory_is_that_of_training_beside_a_baseline(trials):
    def above(name):
        record = trials["cuda"][name, 1]["record"]
        return record["end"]["peak_memory_bytes"] - record["start"]["baseline_memory_bytes"]

    parameters = 4 * trials["cuda"]["sgd", 1]["record"]["start"]["parameters"]
    rounding = 16 * 512
    # Gradients and momentum; gradients and two moments. The rest are activations.
    assert 2 * parameters <= above("sgd") <= 12 * parameters
    assert parameters <= above("adam") - above("sgd") <= parameters + rounding


def test_a_gpu_s_sensors_are_read_through_nvidia_ml_py(trials):
    pytest.importorskip("pynvml")
    for ranks in (1, 2):
        record = trials["cuda"]["sgd", ranks]["record"]
        last = record["evals"][-1]
        assert record["evals"][0]["energy_j"] == 0
        # The counter is 250 W by the clock on the wall, in whole milliseconds at each pause.
        slack = 0.01 * len(record["evals"])
        assert 0 < last["energy_j"] <= 250 * ranks * (last["train_s"] + slack)
        for gpu in record["end"]["gpus"]:
            assert (gpu["power_w"], gpu["temperature_c"], gpu["clock_mhz"]) == (250, 60, 1500)
            assert gpu["memory_bytes"] == 2**30
            assert (gpu["throttled"], gpu["reasons"]) == (1, ["power limit"])


OTHERS = {"nadamw": 0, "schedule-free": 0, "local-adam": 0, "muon": 0, "zero-redundancy": 0,
          "fsdp2": 0, "tr": 1, "apts-paper": 1, "napts": 1, "zero1": 2, "zero2": 2, "zero3": 2}
"""Backends that can run where nothing is computed, and how often a step reads back at most."""


@pytest.mark.slow
def test_every_backend_that_needs_no_numbers_runs_and_reads_back_no_more_than_it_must(
        stand_in, tmp_path):
    wanted = [(name, 1, None) for name in OTHERS]
    found = ended(start(tmp_path / "trials", "cuda", wanted, stand_in), wanted)
    assert {place: trial["reason"] for place, trial in found.items() if trial["reason"]} == {}
    reads = {name: max(step["to_host"] for step in found[name, 1]["ranks"][0]["steps"])
             for name in OTHERS}
    assert all(reads[name] <= most for name, most in OTHERS.items()), reads
    # DeepSpeed's default bucket alone would take 2 GB.
    ends = {name: found[name, 1]["record"] for name in OTHERS}
    assert all(record["end"]["peak_memory_bytes"] - record["start"]["baseline_memory_bytes"]
               < 40 * 4 * record["start"]["parameters"] for record in ends.values())


@pytest.mark.slow
def test_what_needs_no_numbers_runs_on_two_ranks_and_a_killed_rank_ends_them(stand_in, tmp_path):
    names = ("adam", "local-adam", "zero-redundancy", "fsdp2")
    wanted = [*((name, 2, None) for name in names),
              (f"{HERE / 'dying_sgd.py'}[killed=true]", 2, None)]
    *found, killed = ended(start(tmp_path / "trials", "cuda", wanted, stand_in | {
        "FAKE_GPU_STRICT": "1"}), wanted).values()
    assert [trial["reason"] for trial in found] == [None] * len(names)
    assert killed["status"] == "error"
    assert "rank 1 was ended by SIGKILL" in killed["reason"]


@pytest.mark.slow
def test_the_self_test_runs_as_far_as_it_needs_no_numbers(stand_in, tmp_path):
    out = tmp_path / "found.json"
    done = command(stand_in, "selftest", "--check", "memory", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["gpus"] == ["NVIDIA Stand-in"] * 2
    assert [row["status"] for row in found["checks"]] == ["ok"]


def command(environ, *arguments):
    return subprocess.run([sys.executable, "-m", "bench_apts", *arguments], env=environ,
                          capture_output=True, text=True, check=False, timeout=600)


RUN = ("run", "--optimizers", "sgd", "--trials", "0", "--seeds", "1", "--offline", "--gpus")


@pytest.mark.slow
def test_without_nvidia_smi_the_driver_s_gpus_are_found(stand_in, tmp_path):
    found = command(stand_in, *RUN, "4", "--out", str(tmp_path))
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert "this machine has 2 GPUs" in found.stderr
    assert "--device cpu" in found.stderr


def test_a_driver_that_torch_cannot_use_is_found_before_the_first_trial(stand_in, tmp_path):
    listed = stand_in | {"PATH": f"{HERE}:{stand_in['PATH']}", "FAKE_SMI": "2", "FAKE_GPUS": "0"}
    found = command(listed, *RUN, "2", "--out", str(tmp_path))
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert "cannot use them" in found.stderr
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.slow
def test_trials_side_by_side_have_a_gpu_each(stand_in, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    done = command(
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
