"""The product on a stand-in GPU: torch's own CUDA and NCCL code, whose kernels compute nothing.

It shows contexts before a fork, waits of the host, device memory, the course of process groups
and what the command says of GPUs; no numbers, no times.
"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
ODD = str(HERE / "odd_sgd.py")


@pytest.fixture(scope="module")
def trials(stand_in, start_trials, tmp_path_factory, environment):
    """Trials on the stand-in, and on gloo what is compared with them; by optimizer and ranks."""
    folder = tmp_path_factory.mktemp("trials")
    log = folder / "log"
    processes = {
        "cuda": start_trials(folder / "cuda", "cuda", [
            {"name": "sgd"}, {"name": "adam", "gpus": ["1"]}, {"name": "apts"},
            {"name": "sgd", "ranks": 2}, {"name": f"{ODD}[fault=raises]", "ranks": 2},
        ], stand_in | {"FAKE_GPU_STRICT": "1", "FAKE_GPU_LOG": str(log)}),
        "cpu": start_trials(
            folder / "cpu", "cpu", [{"name": "sgd", "ranks": 2}], environment)}
    found = {device: process.ended() for device, process in processes.items()}
    return found | {"pids": set(map(int, log.read_text().split()))}


@pytest.mark.parametrize("place", [("sgd", 1), ("adam", 1), ("apts", 1), ("sgd", 2)])
def test_a_trial_runs_to_its_end(trials, place):
    trial = trials["cuda"][place]
    assert trial["reason"] is None
    start = trial["record"]["start"]
    assert start["process_group"] == "nccl"
    assert start["numerics"]["gpu"] == "NVIDIA Stand-in"
    assert {"cuda", "nccl"} <= set(start["numerics"])
    assert len(trial["ranks"]) == place[1]
    for rank in trial["ranks"]:
        assert rank["order"] == "PCI_BUS_ID"
        assert rank["warmup_steps"] > 10  # DDP waits for its first ten
        assert rank["timeout_s"] > 300, "NCCL must not give up before the launcher does"
        assert place[0] == "apts" or rank["fused"] == [True]


@pytest.mark.parametrize(("name", "ranks", "most"), [("sgd", 1, 0), ("adam", 1, 0), ("sgd", 2, 0),
                                                     ("apts", 1, 1)])
def test_the_host_waits_for_nothing_in_a_step_but_for_apts_s_judgement(trials, name, ranks, most):
    for rank in trials["cuda"][name, ranks]["ranks"]:
        assert len(rank["steps"]) > 3
        for step in rank["steps"]:
            assert step["launches"]
            assert step["to_host"] <= most
            assert step["waits"] <= most
            assert not step["device_waits"]
            assert not step["to_device"], "the data lies on the device"


def test_only_ranks_touch_cuda(trials):
    servers = {rank["server"] for trial in trials["cuda"].values() for rank in trial["ranks"]}
    assert trials["pids"]
    assert not servers & trials["pids"]


def test_a_trial_sees_the_gpus_that_it_was_given(trials):
    assert trials["cuda"]["adam", 1]["ranks"][0]["visible"] == "1"


def test_an_exception_of_one_rank_is_told_though_nccl_waits_for_all_ranks_to_leave(trials):
    trial = trials["cuda"]["odd_sgd.py[fault=raises]", 2]
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
