"""Backends that communicate behind the meter's back are caught, whatever way they take."""

import re
import socket

import pytest
from comm_ranks import ddp, watched
from harness_ranks import run_ranks

from bench_apts import store
from bench_apts.meters.audit import verdict
from bench_apts.meters.hooks import _HOOK_ID

HIDDEN = 100_000


def backend_call(w):
    backend = w.dist.group.WORLD._get_backend(w.torch.device("cpu"))
    backend.allreduce([w.torch.ones(HIDDEN // 4)]).wait()


def own_socket(w):
    """Rank 1 sends to rank 0; the sockets stay open."""
    rendezvous = w.dist.distributed_c10d._get_default_store()
    if w.rank == 0:
        server = socket.create_server(("127.0.0.1", 0))
        rendezvous.set("port", str(server.getsockname()[1]))
        connection, _ = server.accept()
        received = 0
        while received < HIDDEN:
            received += len(connection.recv(HIDDEN))
    else:
        connection = socket.create_connection(("127.0.0.1", int(rendezvous.get("port"))))
        connection.sendall(bytes(HIDDEN))
    w.kept = connection


def removed_hook(w):
    w.dist.group.WORLD.unregister_pre_hook(_HOOK_ID)
    w.dist.all_reduce(w.torch.ones(HIDDEN // 4))


def removed_hook_before_a_scalar(w):
    w.dist.group.WORLD.unregister_pre_hook(_HOOK_ID)
    w.dist.all_reduce(w.torch.ones(1))


def hook_put_back(w):
    world = w.dist.group.WORLD
    world.register_pre_hook(1, lambda args: None)
    world.unregister_pre_hook(_HOOK_ID)
    w.dist.all_reduce(w.torch.ones(1))
    before = w.meter._by_name[world.group_name]
    w.meter.watch(world)
    # As if the hook of before had been put back: it goes on where it stood.
    after = w.meter._by_name[world.group_name]
    after.calls, after.first, after.last = before.calls, before.first, before.last


def group_without_a_hook(w):
    from torch.distributed import distributed_c10d

    distributed_c10d._register_pg_in_world = w.register
    w.dist.all_reduce(w.torch.ones(1), group=w.dist.new_group([0, 1]))


def honest_short_lived_group(w):
    group = w.dist.new_group([0, 1])
    w.dist.all_reduce(w.torch.ones(HIDDEN), group=group)
    w.dist.destroy_process_group(group)


def cheated(connect, cheat):
    from torch.distributed import distributed_c10d

    register = distributed_c10d._register_pg_in_world
    w = watched(connect)
    w.register = register
    step = ddp(w)
    w.dist.barrier()
    w.audit.bill("setup")
    step(0)
    cheat(w)
    w.dist.barrier()
    w.audit.bill("train")
    audited, doubts = verdict(w.audit, w.meter, w.world)
    return audited.parts["train"].difference, doubts


@pytest.mark.parametrize(("cheat", "hidden"), [
    (backend_call, HIDDEN), (own_socket, HIDDEN), (removed_hook, HIDDEN)])
def test_hidden_bytes_show(cheat, hidden):
    (difference, doubts), other = run_ranks(cheated, 2, cheat)
    assert other == (difference, doubts), "all ranks must come to the same verdict"
    assert hidden <= difference < hidden + 2000
    assert re.search(r"rank \d sent \d+ bytes in train, its collectives account for \d+: "
                     "something communicated behind the meter's back", doubts)
    assert "\n" not in doubts


@pytest.mark.parametrize("cheat", [
    removed_hook_before_a_scalar, group_without_a_hook, removed_hook])
def test_a_group_without_a_hook_shows_however_little_it_sent(cheat):
    for _, doubts in run_ranks(cheated, 2, cheat):
        assert "(gloo, 2 ranks) is not watched: its hook was removed or never set" in doubts


def test_a_hook_that_was_away_for_a_while_shows():
    for _, doubts in run_ranks(cheated, 2, hook_put_back):
        assert "(gloo, 2 ranks) was not watched all the time: 1 operations are missing" in doubts


def test_a_group_that_comes_and_goes_is_no_cheat():
    for difference, doubts in run_ranks(cheated, 2, honest_short_lived_group):
        assert 0 <= difference <= 8  # its handshake
        assert doubts is None


def test_the_trial_of_a_cheat_fails_and_its_record_says_why(command, plugin, tmp_path):
    path = plugin(on_step='import torch; dist.group.WORLD._get_backend(torch.device("cpu"))'
                          '.allreduce([torch.ones(5000)]).wait()')
    command("run", "--gpus", "2", "--optimizers", path, "--trials", "0", "--seeds", "1",
            "--offline", "--set", "suite.budget.samples=1280", "--out", tmp_path)
    (record,) = store.read_trials(tmp_path / "digits")
    assert record.end.status == "error"
    assert "behind the meter's back" in record.end.reason
    assert not record.finished
    part = record.end.audit.parts["train"]
    assert part.difference > 20_000 * record.evals[-1].step


def test_honest_trials_are_exact(finished):
    for record in finished.records:
        audit = record.end.audit
        assert audit.skipped == ""
        assert set(audit.parts) == {"setup", "train", "eval"}
        assert audit.parts["train"].difference == audit.parts["eval"].difference == 0
        assert 0 <= audit.parts["setup"].difference <= audit.parts["setup"].unsure_bytes
        actual = sum(t.actual_bytes for t in record.end.comm.get("train", {}).values())
        assert (actual > 0) == (record.trial.ranks > 1)
        if audit.rank == 0:
            barriers = audit.parts["train"].predicted_bytes - actual
            assert barriers == (len(record.evals) - 1) * 2 * 144 * (record.trial.ranks > 1)
