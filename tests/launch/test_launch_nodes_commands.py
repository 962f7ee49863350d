"""Two commands as two machines, over this machine's loopback: how they end, alone and together."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from alike import assert_alike
from nodes_run import STUDY, free_port, leaving_nothing, node, same, start

from bench_apts.core import store

LONG = ("--set", "suite.budget.samples=2000000", "--set", "suite.evaluation.every_samples=128000")


@pytest.fixture
def two(environment, tmp_path, processes):
    """Starts a study as node 0 and node 1; leaves nothing of it behind."""
    with leaving_nothing(processes) as running:

        def begin(*arguments, other=None):
            address = f"127.0.0.1:{free_port()}"
            pair = [start(node(rank, address, tmp_path / str(rank), *(
                other if rank and other is not None else arguments)), environment)
                for rank in (0, 1)]
            running.extend(pair)
            return pair

        yield begin


def ended(pair, patience_s=250):
    """Waits for both; returns their exit codes and what each said."""
    said = [" ".join(process.communicate(timeout=patience_s)) for process in pair]
    return [process.returncode for process in pair], said


def records(tmp_path):
    return {r.trial.label: r for r in store.read_trials(tmp_path / "0" / "digits")}


def training(pair, tmp_path, processes):
    """Waits until a trial has made its first evaluation, so that its ranks train."""
    def evaluated():
        assert all(process.poll() is None for process in pair), ended(pair)
        return any(r.evals for r in records(tmp_path).values())

    processes.wait_for(evaluated)


def nothing_left(pair, processes):
    processes.wait_for(lambda: not any(processes.session(p.pid) for p in pair))


def test_two_nodes_run_a_study(two, tmp_path, processes):
    pair = two("--gpus", "1,2", *STUDY, "--optimizers", "adam-default")
    codes, said = ended(pair)
    assert codes == [0, 0], said
    nothing_left(pair, processes)
    assert "node 0 waits for node 1 at 127.0.0.1:" in said[0]
    assert "digits adam-default N=2 report 1: miss" in said[1]
    assert "N=1" not in said[1], "a single rank runs on node 0"
    assert (tmp_path / "0" / "digits" / "report.html").exists()
    assert not (tmp_path / "1").exists(), "the other node writes nothing"
    file = store.read_study(tmp_path / "0" / "digits")
    here = {"hostname": socket.gethostname()}
    assert [n["hostname"] for n in file.environment["nodes"]] == [here["hostname"]] * 2
    one, both = sorted(store.read_trials(tmp_path / "0" / "digits"), key=lambda r: r.trial.ranks)
    assert (one.trial.ranks, len(one.header.environment["nodes"])) == (1, 1)
    assert (both.trial.ranks, len(both.header.environment["nodes"])) == (2, 2)
    assert both.start.process_group == "gloo"


@pytest.mark.slow
def test_other_options_on_the_other_node_end_both(two, tmp_path):
    codes, said = ended(two("--gpus", "2", *STUDY, other=("--gpus", "2", *STUDY, "--seeds", "2")))
    assert codes == [2, 2]
    for text in said:
        assert ("bench-apts: the nodes differ: study.seeds is 1 on node 0 and 2 on node 1 "
                f"({socket.gethostname()}); give all the same code, options and data") in text
        assert "Traceback" not in text
    assert not records(tmp_path)


@pytest.mark.slow
def test_an_exception_on_the_other_node_is_recorded_and_the_study_goes_on(two, tmp_path, plugin):
    path = plugin(on_step="if rank == 1 and self.steps == 8: raise ValueError('the cat sat')")
    codes, said = ended(two("--gpus", "2", *STUDY, "--optimizers", f"{path},adam-default"))
    assert codes == [1, 1], said
    found = records(tmp_path)
    assert found["adam-default"].end.status == "miss"
    end = found["mine"].end
    assert end.status == "error"
    assert end.reason.startswith(
        f"node 1 ({socket.gethostname()}), rank 1: ValueError: the cat sat (mine.py:")
    assert "raise ValueError" in end.traceback


@pytest.mark.slow
def test_an_exception_on_node_0_is_recorded_and_the_study_goes_on(two, tmp_path, plugin):
    path = plugin(on_step="if rank == 0 and self.steps == 8: raise ValueError('the cat sat')")
    codes, said = ended(two("--gpus", "2", *STUDY, "--optimizers", f"{path},adam-default"))
    assert codes == [1, 1], said
    found = records(tmp_path)
    assert found["adam-default"].end.status == "miss"
    assert found["mine"].end.reason.startswith(
        f"node 0 ({socket.gethostname()}), rank 0: ValueError: the cat sat (mine.py:")


@pytest.mark.slow
def test_a_rank_killed_on_the_other_node_is_named(two, tmp_path, plugin):
    path = plugin(on_step="if rank == 3 and self.steps == 8: os.kill(os.getpid(), signal.SIGKILL)")
    codes, said = ended(two("--gpus", "4", *STUDY, "--optimizers", f"{path},adam-default"))
    assert codes == [1, 1], said
    assert records(tmp_path)["mine"].end.reason == (
        f"node 1 ({socket.gethostname()}), rank 3 was ended by SIGKILL (out of memory, or "
        "somebody killed it)")


@pytest.mark.slow
@pytest.mark.parametrize("optimizers", ["adam-default,apts", "adam-default"])  # the last trial
def test_the_other_command_killed_in_a_trial_ends_the_study_in_order(
        two, tmp_path, processes, optimizers):
    pair = two("--gpus", "2", *STUDY, *LONG, "--optimizers", optimizers)
    training(pair, tmp_path, processes)
    pair[1].kill()
    codes, said = ended(pair)
    nothing_left(pair, processes)
    name = f"node 1 ({socket.gethostname()}) is gone: it closed the connection"
    assert codes == [2, -signal.SIGKILL]
    assert f"bench-apts: {name}; finished trials are kept, the same command" in said[0]
    assert "Traceback" not in said[0]
    (record,) = records(tmp_path).values()
    assert (record.end.status, record.end.reason) == ("error", name)


@pytest.mark.slow
def test_node_0_killed_in_a_trial_ends_the_others(two, tmp_path, processes):
    pair = two("--gpus", "2", *STUDY, *LONG)
    training(pair, tmp_path, processes)
    pair[0].kill()
    codes, said = ended(pair)
    nothing_left(pair, processes)
    assert codes == [-signal.SIGKILL, 2]
    assert "bench-apts: node 0 (127.0.0.1:" in said[1]
    assert "is gone: it closed the connection; finished trials are kept there" in said[1]
    assert "Traceback" not in said[1]


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "name", "codes"), [
    (0, "SIGTERM", [143, 143]), (0, "SIGINT", [130, 130]), (1, "SIGTERM", [2, 143])])
def test_a_signal_ends_both_in_order(two, tmp_path, processes, rank, name, codes):
    pair = two("--gpus", "2", *STUDY, *LONG)
    training(pair, tmp_path, processes)
    os.kill(pair[rank].pid, getattr(signal, name))
    found, said = ended(pair)
    nothing_left(pair, processes)
    assert found == codes, said
    assert not any("Traceback" in text for text in said)
    (record,) = records(tmp_path).values()
    assert record.end.status == "interrupted"
    # The ranks of both have written their part, whichever of the two was asked.
    assert [c.skipped for c in record.checkpoints] == [""] * (name == "SIGTERM")
    if rank:
        assert record.end.reason == f"node 1 ({socket.gethostname()}), ended by SIGTERM"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam-default", "apts"])
def test_both_go_on_from_a_checkpoint_that_both_wrote(
        two, tmp_path, processes, command, optimizer):
    # Long enough to be stopped within, on a machine of any speed.
    study = ("--gpus", "2", *STUDY, "--optimizers", optimizer, "--set",
             "suite.budget.samples=150000", "--set", "suite.evaluation.every_samples=5000")
    pair = two(*study)
    training(pair, tmp_path, processes)
    os.kill(pair[0].pid, signal.SIGTERM)
    codes, said = ended(pair)
    assert codes == [143, 143], said
    codes, said = ended(two(*study))
    assert codes == [0, 0], said
    (record,) = records(tmp_path).values()
    assert record.resumed == [record.checkpoints[0].samples]
    alone = command("run", *study, "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    assert_alike(record, *store.read_trials(tmp_path / "alone" / "digits"))


@pytest.mark.slow
def test_a_time_limit_ends_the_ranks_on_both(two, tmp_path, processes, plugin):
    # A rank that hangs where no collective is: only the limit can end it.
    path = plugin(on_step="if rank == 1 and self.steps == 8: time.sleep(1000)")
    pair = two("--gpus", "2", *STUDY, "--optimizers", path)
    training(pair, tmp_path, processes)
    agent = psutil.Process(pair[0].pid)
    agent.send_signal(signal.SIGALRM)  # as the limit does, minutes later
    codes, said = ended(pair)
    nothing_left(pair, processes)
    assert codes == [1, 1], said
    assert records(tmp_path)["mine"].end.status == "timeout"


@pytest.mark.slow
def test_torchrun_starts_two_nodes(environment, tmp_path, command, processes):
    port = free_port()
    pair = [start([
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr",
        "127.0.0.1", "-m", "bench_apts", "run", "--gpus", "1,2", *STUDY, "--out", tmp_path / "0"],
        environment) for _ in range(2)]
    codes, said = ended(pair)
    nothing_left(pair, processes)
    assert codes == [0, 0], said
    alone = command("run", "--gpus", "1,2", *STUDY, "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    both = {r.header.run_id: r for r in store.read_trials(tmp_path / "0" / "digits")}
    for record in store.read_trials(tmp_path / "alone" / "digits"):
        same(record, both[record.header.run_id])
    assert len(both) == 4


def test_torchrun_with_several_commands_on_a_node_is_one_clear_line(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench_apts", "run", *STUDY, "--out", tmp_path], check=False,
        env=environment | {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "4",
                           "LOCAL_WORLD_SIZE": "2"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == ("bench-apts: torchrun started 4 commands on 2 nodes; one starts the "
                           "ranks of a node: say --nproc-per-node 1 to torchrun, or --nodes 1 for "
                           "commands of their own\n")
