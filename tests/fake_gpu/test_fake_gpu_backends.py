"""Every backend on the stand-in GPU: what it waits for, how it ends, what the meter counts."""

from pathlib import Path

import pytest

from bench_apts.plugins import registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ODD = str(Path(__file__).with_name("odd_sgd.py"))

ABSENT = {"soap": "decompositions have to be computed",
          "d-adapt": "it reads its step length back", "prodigy": "it reads its step length back",
          "zeropp": "nvcc compiles its kernels", "onebit-adam": "CuPy compiles its kernels"}
"""Backends that cannot run where nothing is computed or compiled, and why."""

NAMES = [name for name in registry.optimizer_names() if name not in ABSENT]

READS = {"apts": 1, "apts-paper": 1, "napts": 1, "tr": 1, "zero1": 2, "zero2": 2, "zero3": 1,
         "zero-offload": 19}
"""How often a step reads back at most; never where a backend is not named (docs/machines.md)."""

WAITS = READS | {"zero1": 3, "zero2": 3, "zero3": 5}
"""How often the host waits at most, for a stream or an event; reading back is among it."""

MORE = {"to_host": READS | {"local-adam": 1},
        "waits": WAITS | {"local-adam": 1, "ddp-powersgd": 3},
        "device_waits": {"ddp-powersgd": 1}}
"""The same at N = 2, with waits for the whole device, of which N = 1 has none."""

BUILDS = {registry.optimizer(name).backend.build: name for name in NAMES}
"""One name for each function that builds: others are the same at other values."""

DECIDING = {"apts", "apts-paper", "napts", "tr", "zero-offload", "zero1", "zero2", "zero3"}
"""Backends whose further calls depend on numbers: norms of gradients decide whether ZeRO steps."""


def too_many(trials, most):
    """Returns the backends with a step that copies back or waits more often than they may."""
    found = {}
    for name, trial in trials.items():
        for kind, allowed in most.items():
            number = max(step[kind] for rank in trial["ranks"] for step in rank["steps"])
            if number > allowed.get(name, 0):
                found[name, kind] = number
    return found


def failed(trials):
    return {name: trial["reason"] for name, trial in trials.items() if trial["reason"]}


@pytest.fixture(scope="module")
def alone(stand_in, start_trials, tmp_path_factory):
    """A trial of every backend at N = 1, and the processes that used CUDA."""
    folder = tmp_path_factory.mktemp("alone")
    log = folder / "log"
    found = start_trials(folder / "trials", "cuda", [
        *({"name": name} for name in NAMES), {"name": ODD}],
        stand_in | {"FAKE_GPU_LOG": str(log)}).ended()
    return {name: trial for (name, _), trial in found.items()}, set(
        map(int, log.read_text().split()))


def test_every_backend_runs_and_waits_for_no_more_than_it_must(alone):
    trials, _ = alone
    assert failed(trials) == {}
    assert too_many(trials, {"to_host": READS, "waits": WAITS, "device_waits": {}}) == {}


def test_memory_is_that_of_the_method(alone):
    trials, _ = alone
    for name in NAMES:
        record = trials[name]["record"]
        above = record["end"]["peak_memory_bytes"] - record["start"]["baseline_memory_bytes"]
        # DeepSpeed's default bucket alone would take 2 GB.
        assert above < 40 * 4 * record["start"]["parameters"], name


def test_no_package_of_a_backend_uses_cuda_before_the_fork(alone):
    trials, pids = alone
    servers = {rank["server"] for trial in trials.values() for rank in trial["ranks"]}
    assert pids
    assert not servers & pids


def test_the_warm_up_leaves_the_gpu_s_generator_where_it_was(alone):
    trials, _ = alone
    (rank,) = trials["odd_sgd.py"]["ranks"]
    assert rank["generator_kept"]


@pytest.fixture(scope="module")
def together(stand_in, start_trials, tmp_path_factory, environment):
    """Trials at N = 2 of what needs no numbers, on the stand-in and on gloo."""
    folder = tmp_path_factory.mktemp("together")
    wanted = [{"name": name, "ranks": 2} for name in BUILDS.values()
              if name not in DECIDING]
    processes = [start_trials(folder / device, device, wanted, environ) for device, environ in (
        ("cuda", stand_in | {"FAKE_GPU_STRICT": "1"}), ("cpu", environment))]
    return [{name: trial for (name, _), trial in process.ended().items()}
            for process in processes]


def test_what_needs_no_numbers_runs_on_two_ranks(together):
    trials, _ = together
    assert failed(trials) == {}
    assert too_many(trials, MORE) == {}


def test_the_meter_counts_on_nccl_what_it_counts_on_gloo(together):
    def calls(trial):
        return sorted(
            (call["phase"], call["operation"], call["dtype"], call["payload_bytes"], call["calls"])
            for call in trial["record"]["end"]["calls"] if call["phase"] in ("train", "validate"))

    on_nccl, on_gloo = together
    for name, trial in on_nccl.items():
        assert calls(trial) == calls(on_gloo[name]), name


def test_ranks_that_die_or_hang_end_the_trial_in_its_time(stand_in, start_trials, tmp_path):
    limit_s = 100
    killed, hung = start_trials(tmp_path / "trials", "cuda", [
        {"name": f"{ODD}[fault=killed]", "ranks": 2},
        {"name": f"{ODD}[fault=hangs]", "ranks": 2, "limit_s": limit_s},
    ], stand_in | {"FAKE_GPU_STRICT": "1"}).ended().values()
    assert killed["status"] == "error"
    assert "rank 1 was ended by SIGKILL" in killed["reason"]
    assert killed["seconds"] < limit_s
    assert hung["status"] == "timeout"
    assert f"killed after {limit_s} s" in hung["reason"]
    assert "rank 1 in step (odd_sgd.py" in hung["reason"]
    assert hung["seconds"] < 2 * limit_s
