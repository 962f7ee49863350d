"""Two agents as two hosts: network namespaces joined by a cable, host names of their own.

What they record is what one host records: the same losses, weights and bytes.
"""

import subprocess

import pytest
from nodes_run import STUDY, free_port, leaving_nothing, node, same, start

from bench_apts.core import store
from bench_apts.meters import soundness

PREFIX = "10.79.0"


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path):
    """The commands that enter two hosts; skips where the system does not let us make them."""
    names = [f"bench-apts-{tmp_path.parent.name}-{rank}"[-60:] for rank in range(2)]
    ends = ["cable0", "cable1"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "netns", names[0], "type", "veth",
           "peer", "name", ends[1], "netns", names[1])
        for rank, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("-n", name, "addr", "add", f"{PREFIX}.{rank + 1}/24", "dev", end)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", end, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        pytest.skip(f"no network namespaces with a cable here: {why}")
    else:
        yield [["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c",
                'hostname "$0" && exec "$@"', f"host{rank}"] for rank, name in enumerate(names)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def two(hosts, environment, tmp_path, processes):
    """Starts a study on both hosts; leaves nothing of it behind."""
    with leaving_nothing(processes) as running:

        def begin(*arguments):
            address = f"{PREFIX}.1:{free_port()}"
            for rank, before in enumerate(hosts):
                running.append(start(node(rank, address, tmp_path / str(rank), *arguments,
                                          before=before), environment))
            return running

        yield begin


def compared(pair, ranks, command, tmp_path):
    """Waits for both hosts and compares their records with those of one host."""
    said = [" ".join(process.communicate(timeout=250)) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    alone = command("run", "--gpus", ranks, *STUDY, "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    both = {r.header.run_id: r for r in store.read_trials(tmp_path / "0" / "digits")}
    one = store.read_trials(tmp_path / "alone" / "digits")
    assert len(one) == len(both) == 2 * len(ranks.split(","))
    for record in one:
        same(record, both[record.header.run_id])
        assert record.end.audit.skipped == ""
        assert "nodes" not in record.header.environment
    for record in both.values():
        names = [machine["hostname"] for machine in record.header.environment["nodes"]]
        assert names == ["host0", "host1"][:record.trial.ranks]
    assert soundness.check(tmp_path / "0" / "digits") == (len(both), [])


@pytest.mark.slow
def test_two_hosts_train_as_one(two, command, tmp_path):
    compared(two("--gpus", "2", *STUDY), "2", command, tmp_path)


@pytest.mark.slow
def test_two_hosts_train_as_one_with_several_ranks_each(two, command, tmp_path):
    compared(two("--gpus", "1,2,4", *STUDY), "1,2,4", command, tmp_path)


@pytest.mark.slow
def test_a_host_that_dies_in_a_trial_is_named(two, tmp_path, processes):
    pair = two("--gpus", "4", *STUDY, "--set", "suite.budget.samples=2000000",
               "--set", "suite.evaluation.every_samples=128000")
    folder = tmp_path / "0" / "digits"
    processes.wait_for(lambda: (folder / "trials").exists()
                       and any(r.evals for r in store.read_trials(folder)), 100)
    for process in processes.session(pair[1].pid):
        process.kill()
    _, said = pair[0].communicate(timeout=60)
    assert pair[0].returncode == 2
    assert "bench-apts: node 1 (host1) is gone: it closed the connection; finished" in said
    (record,) = store.read_trials(folder)
    assert record.end.status == "error"
    assert record.end.reason == "node 1 (host1) is gone: it closed the connection"


@pytest.mark.slow
def test_a_cable_that_is_pulled_ends_both_hosts(two, hosts, tmp_path, processes):
    pair = two("--gpus", "2", *STUDY, "--set", "suite.budget.samples=2000000",
               "--set", "suite.evaluation.every_samples=128000")
    folder = tmp_path / "0" / "digits"
    processes.wait_for(lambda: (folder / "trials").exists()
                       and any(r.evals for r in store.read_trials(folder)), 100)
    ip("-n", hosts[0][3], "link", "set", "cable0", "down")
    said = [" ".join(process.communicate(timeout=150)) for process in pair]
    assert [process.returncode for process in pair] == [2, 2], said
    assert "node 1 (host1) is gone" in said[0]
    assert f"node 0 ({PREFIX}.1:" in said[1]
    (record,) = store.read_trials(folder)
    assert record.end.status == "error"
    assert "node 1 (host1)" in record.end.reason
    processes.wait_for(lambda: not any(processes.session(process.pid) for process in pair))
