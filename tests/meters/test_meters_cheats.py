"""Backends that communicate behind the meter's back are caught, whatever way they take."""

import mmap
import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch_names
from comm_ranks import ddp, watched
from harness_ranks import run_ranks

from bench_apts.core import store
from bench_apts.meters import procfs
from bench_apts.meters.audit import memory_complaints, verdict

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
    w.dist.group.WORLD.unregister_pre_hook(w.meter.hook_id)
    w.dist.all_reduce(w.torch.ones(HIDDEN // 4))


def removed_hook_before_a_scalar(w):
    w.dist.group.WORLD.unregister_pre_hook(w.meter.hook_id)
    w.dist.all_reduce(w.torch.ones(1))


def overrides_gone(w):
    w.meter.uninstall()
    w.dist.all_reduce(w.torch.ones(1))


def overrides_away(w, floats):
    """The dispatcher's overrides go, a collective passes, others take their place."""
    w.meter.uninstall()
    w.dist.all_reduce(w.torch.ones(floats))
    w.meter.install()


def hook_put_back(w):
    world = w.dist.group.WORLD
    world.register_pre_hook(1, lambda args: None)
    world.unregister_pre_hook(w.meter.hook_id)
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


def shared_memory(w):
    """Rank 0 makes a segment, rank 1 finds it by name; both keep it."""
    from multiprocessing.shared_memory import SharedMemory

    rendezvous = w.dist.distributed_c10d._get_default_store()
    if w.rank == 0:
        w.kept = SharedMemory(create=True, size=HIDDEN)
        rendezvous.set("name", w.kept.name)
    else:
        w.kept = SharedMemory(rendezvous.get("name").decode())
        w.kept.buf[:HIDDEN] = bytes(HIDDEN)
    w.dist.barrier()
    if w.rank == 0:
        w.kept.unlink()


def mapped_file(w, folder, writers=(0, 1)):
    """All ranks map a file; some may write."""
    path = Path(folder) / "mailbox"
    if w.rank == 0:
        path.write_bytes(bytes(HIDDEN))
    w.dist.barrier()
    access = mmap.PROT_READ | (mmap.PROT_WRITE if w.rank in writers else 0)
    with path.open("r+b") as file:
        w.kept = mmap.mmap(file.fileno(), HIDDEN, mmap.MAP_SHARED, access)


def memory_without_a_name(w):
    """Rank 1 reaches a memfd of rank 0 through /proc."""
    rendezvous = w.dist.distributed_c10d._get_default_store()
    if w.rank == 0:
        w.file = os.memfd_create("mailbox")
        os.ftruncate(w.file, HIDDEN)
        rendezvous.set("path", f"/proc/{os.getpid()}/fd/{w.file}")
    else:
        w.file = os.open(rendezvous.get("path").decode(), os.O_RDWR)
    w.kept = mmap.mmap(w.file, HIDDEN)
    w.dist.barrier()


def deepspeeds_shared_memory(w, built):
    """DeepSpeed's all-reduce for inference, built into a folder and switched on."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0", "LOCAL_SIZE": str(w.size),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(os.getppid()),
                   "TORCH_EXTENSIONS_DIR": built}
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = True
    deepspeed.init_distributed(verbose=False)
    values = w.torch.ones(HIDDEN // 4)
    deepspeed.comm.inference_all_reduce(values)
    assert values.tolist() == [float(w.size)] * (HIDDEN // 4)
    if w.rank == 0:
        for path in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{os.getppid()}_*"):
            path.unlink()


def honest_sharing(w, folder):
    """What ranks map in good faith: data to read, memory of their own, semaphores of all."""
    import multiprocessing
    from multiprocessing.shared_memory import SharedMemory

    own = SharedMemory(create=True, size=HIDDEN)
    own.unlink()
    w.kept = [own, np.load(Path(folder) / "data.npy", mmap_mode="r"),
              mmap.mmap(-1, HIDDEN), multiprocessing.Lock()]
    for strategy in ("file_descriptor", "file_system"):  # how torch lends tensors to loaders
        w.torch.multiprocessing.set_sharing_strategy(strategy)
        w.kept.append(w.torch.ones(1000).share_memory_())
    # Everybody opens a semaphore of rank 0 by its name, as processes that are spawned do.
    rendezvous = w.dist.distributed_c10d._get_default_store()
    import _multiprocessing

    if w.rank == 0:
        name = f"/mp-{os.getpid()}"
        w.kept.append(_multiprocessing.SemLock(1, 1, 1, name, False))
        rendezvous.set("semaphore", name)
    else:
        name = rendezvous.get("semaphore").decode()
        w.kept.append(_multiprocessing.SemLock._rebuild(0, 1, 1, name))
    w.dist.barrier()
    if w.rank == 0:
        _multiprocessing.sem_unlink(name)
    mapped = Path("/proc/self/maps").read_text()
    assert "/dev/shm/sem." in mapped
    assert mapped.count(" rw-s ") >= 6


def honest_short_lived_group(w):
    group = w.dist.new_group([0, 1])
    w.dist.all_reduce(w.torch.ones(HIDDEN), group=group)
    w.dist.destroy_process_group(group)


def cheated(connect, cheat, arguments=(), dispatch=False):
    from torch.distributed import distributed_c10d

    register = getattr(distributed_c10d, "_register_pg_in_world", None)  # the hook's place
    w = watched(connect, dispatch)
    w.register = register
    step = ddp(w)
    w.dist.barrier()
    w.audit.bill("setup")
    step(0)
    cheat(w, *arguments)
    w.dist.barrier()
    w.audit.bill("train")
    audited, doubts = verdict(w.audit, w.meter, w.world)
    return audited.parts["train"].difference, doubts


def hidden_bytes(difference):
    return HIDDEN <= difference < HIDDEN + 2000


@pytest.mark.parametrize("cheat", [
    backend_call, own_socket, pytest.param(removed_hook, marks=torch_names.hooked)])
def test_hidden_bytes_show(cheat):
    (difference, doubts), other = run_ranks(cheated, 2, cheat)
    assert other == (difference, doubts), "all ranks must come to the same verdict"
    assert hidden_bytes(difference)
    assert re.search(r"rank \d sent \d+ bytes in train, its collectives account for \d+: "
                     "something communicated behind the meter's back", doubts)
    assert "\n" not in doubts


@torch_names.hooked
@pytest.mark.parametrize("cheat", [
    removed_hook_before_a_scalar, group_without_a_hook, removed_hook])
def test_a_group_without_a_hook_shows_however_little_it_sent(cheat):
    for _, doubts in run_ranks(cheated, 2, cheat):
        assert "(gloo, 2 ranks) is not watched: its hook was removed or never set" in doubts


@torch_names.hooked
def test_a_hook_that_was_away_for_a_while_shows():
    for _, doubts in run_ranks(cheated, 2, hook_put_back):
        assert "(gloo, 2 ranks) was not watched all the time: 1 operations are missing" in doubts


def test_a_group_that_comes_and_goes_is_no_cheat():
    for difference, doubts in run_ranks(cheated, 2, honest_short_lived_group):
        assert 0 <= difference <= 8  # its handshake
        assert doubts is None


@pytest.mark.parametrize(("cheat", "arguments"), [
    (backend_call, ()), (own_socket, ()), (overrides_away, (HIDDEN // 4,))])
def test_hidden_bytes_show_under_the_dispatcher_too(cheat, arguments):
    for difference, doubts in run_ranks(cheated, 2, cheat, arguments, True):
        assert hidden_bytes(difference)
        assert "something communicated behind the meter's back" in doubts


def test_overrides_that_are_gone_show_however_little_was_sent():
    for difference, doubts in run_ranks(cheated, 2, overrides_gone, (), True):
        assert 0 < difference < 1000
        assert "(gloo, 2 ranks) is not watched: its hook was removed or never set" in doubts


def test_the_dispatcher_sees_groups_that_no_hook_was_set_on():
    for difference, doubts in run_ranks(cheated, 2, group_without_a_hook, (), True):
        assert difference <= 8  # the handshake: there is nothing to remove from a group
        assert doubts is None


def test_the_dispatcher_has_no_numbers_to_find_a_gap_in():
    """A known limit: what was hidden shows in the kernel's bytes, within their bounds."""
    for difference, doubts in run_ranks(cheated, 2, overrides_away, (1,), True):
        assert 0 < difference < 1000
        assert doubts is None


SHARED = r"ranks 0, 1 share memory: (.*): bytes may have passed behind the meter's back"


@pytest.mark.parametrize(("cheat", "path"), [
    (shared_memory, "/dev/shm/psm_.*"), (memory_without_a_name, "/memfd:mailbox")])
def test_shared_memory_shows(cheat, path):
    (difference, doubts), other = run_ranks(cheated, 2, cheat)
    assert other == (difference, doubts)
    assert difference == 0, "no socket saw it"
    assert re.fullmatch(path, re.match(SHARED, doubts)[1])


@pytest.mark.parametrize(("writers", "caught"), [((0, 1), True), ((0,), True), ((), False)])
def test_a_file_that_ranks_map_shows_if_one_may_write_it(writers, caught, tmp_path):
    for difference, doubts in run_ranks(cheated, 2, mapped_file, (str(tmp_path), writers)):
        assert difference == 0
        assert doubts == (f"ranks 0, 1 share memory: {tmp_path}/mailbox: bytes may have passed "
                          "behind the meter's back" if caught else None)


def test_what_is_shared_in_good_faith_is_no_cheat(tmp_path):
    np.save(tmp_path / "data.npy", np.ones(HIDDEN))
    assert run_ranks(cheated, 2, honest_sharing, (str(tmp_path),)) == [(0, None)] * 2


def test_the_ranks_that_share_are_named_together():
    a, b, c, d, e = (("00:1b", inode) for inode in range(5))
    every = {a: "/a", b: "/b", c: "/c", d: "/d"}
    lines = memory_complaints([
        procfs.SharedMappings({**every, e: "/one name"}, {a, b, c, d}),
        procfs.SharedMappings({**every, e: "/another"}, set()),
        procfs.SharedMappings({e: "/e"}, {e})])
    assert lines == [
        "ranks 0, 1 share memory: /a, /b, /c and 1 more: bytes may have passed behind the "
        "meter's back",
        "ranks 0, 1, 2 share memory: /one name: bytes may have passed behind the meter's back"]


@pytest.mark.parametrize(("pages", "seen"), [(1, False), (2, True)])
def test_what_is_larger_than_a_semaphore_is_none(pages, seen):
    path = Path(f"/dev/shm/sem.of-a-test-{os.getpid()}")
    path.write_bytes(bytes(pages * mmap.PAGESIZE))
    try:
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
            assert (str(path) in procfs.shared_mappings().mapped.values()) == seen
    finally:
        path.unlink()


def test_mappings_are_listed_only_where_shared_ones_may_have_changed(monkeypatch, tmp_path):
    path, listed, real = tmp_path / "file", [], procfs.shared_mappings
    path.write_bytes(bytes(HIDDEN))
    mappings = procfs.Mappings()
    monkeypatch.setattr(procfs, "shared_mappings", lambda: listed.append(1) or real())
    with mmap.mmap(-1, 2**24, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as private:
        private[:] = bytes(2**24)
        mappings.read()
    assert not listed
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        mappings.read()
    assert listed == [1]
    assert (str(path), 0) in mappings.seen.writable


@pytest.mark.slow
def test_deepspeeds_shared_memory_shows(pytestconfig):
    if not (shutil.which("g++") and "avx2" in Path("/proc/cpuinfo").read_text()):
        pytest.skip("DeepSpeed's shared-memory operator needs g++ and AVX2")
    # Kept for the next time, because it takes a minute or two to build.
    built = str(pytestconfig.cache.mkdir("torch-extensions"))
    for difference, doubts in run_ranks(
            cheated, 2, deepspeeds_shared_memory, (built,), patience_s=280):
        assert difference == 0, "no socket saw it"
        paths = re.fullmatch(SHARED, doubts)[1].split(", ")
        assert len(paths) == 2
        assert all(p.startswith("/dev/shm/deepspeed_allreduce_buffer_") for p in paths)


def test_the_trial_of_a_cheat_fails_and_its_record_says_why(command, plugin, tmp_path):
    path = plugin(on_step='import torch; dist.group.WORLD._get_backend(torch.device("cpu"))'
                          '.allreduce([torch.ones(5000)]).wait()')
    command("run", "--gpus", "2", "--optimizers", path, "--trials", "0", "--seeds", "1",
            "--no-twins", "--no-report", "--offline", "--set", "suite.budget.samples=1280",
            "--out", tmp_path)
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
            # The barrier that ends each stretch, and the all-reduce of a number that began it.
            around = audit.parts["train"].predicted_bytes - actual
            assert around == (len(record.evals) - 1) * (144 + 152) * (record.trial.ranks > 1)
