"""Files, pipes, sockets and processes through which ranks exchange data, caught or innocent."""

import re
from pathlib import Path

import channel_ranks as ways
import pytest
from comm_ranks import ddp, watched
from harness_ranks import run_ranks

from bench_apts.core import store
from bench_apts.meters import hidden_channels, procfs
from bench_apts.meters.audit import channel_complaints, verdict


def taken(connect, way, folder, unreadable=()):
    """Trains, goes a way between two pauses, trains; returns what the verdict complains of.

    The functions of ``procfs`` that are ``unreadable`` are refused by the kernel.
    """
    for name in unreadable:
        setattr(procfs, name, refused)
    w = watched(connect)
    w.folder = Path(folder)
    step = ddp(w)
    step(0)
    w.dist.barrier()
    w.audit.bill("setup")
    step(1)
    way(w)
    step(2)
    w.dist.barrier()
    w.audit.bill("train")
    audited, doubts = verdict(w.audit, w.meter, w.world)
    ways.end_helpers(w)
    return doubts, audited.unread


def refused(*arguments):
    raise PermissionError("not permitted here")


CAUGHT = [
    (ways.files_of_numpy, "/0-0.npy, .*/0-1.npy, .*/1-0.npy and 5 more"),
    (ways.files_of_torch, "/0.pt, .*/1.pt"),
    (ways.file_in_one_direction, "/letter"),
    (ways.file_held_open, "/board"),
    (ways.file_in_shared_memory, "/dev/shm/apts-test-"),
    (ways.fifo, "/fifo"),
    (ways.fifo_held_open, "/fifo"),
    (ways.pipe_of_another_process, r"/proc/\d+"),
    (ways.memory_of_another_process, r"/proc/\d+"),
    (ways.unix_socket, "the socket .*/socket"),
    (ways.unix_socket_in_a_step, "the socket .*/socket"),
    (ways.unix_socket_without_a_path, "the socket @apts-test"),
    (ways.tcp_in_a_step, r"TCP port \d+"),
    (ways.unix_datagrams, "the socket .*/socket-0, the socket .*/socket-1"),
    (ways.udp, r"UDP port \d+, UDP port \d+"),
    (ways.udp_unconnected, r"UDP port \d+, UDP port \d+"),
    (ways.helper_processes, r"TCP port \d+"),
    (ways.helper_with_a_fifo, "/fifo"),
]


@pytest.mark.parametrize(("way", "named"), CAUGHT, ids=lambda case: getattr(case, "__name__", ""))
def test_a_channel_is_named_on_every_rank(way, named, short_path):
    (doubts, unread), (other, _) = run_ranks(taken, 2, way, (str(short_path)))
    assert doubts == other
    assert re.search(f"ranks 0, 1 exchange data through .*{named}.*: send it through "
                     "torch.distributed", doubts)
    assert "\n" not in doubts
    assert unread == []


def test_sockets_of_unknown_families_count_if_ranks_have_them(short_path):
    try:
        ways.vsock(type("", (), {})())
    except OSError:
        pytest.skip("this kernel has no vsock")
    for doubts, _ in run_ranks(taken, 2, ways.vsock, str(short_path)):
        assert re.search(r"ranks 0, 1 exchange data through sockets of family \d+", doubts)


def test_memory_that_is_mapped_within_a_step_shows(short_path):
    for doubts, _ in run_ranks(taken, 2, ways.mapped_in_a_step, str(short_path)):
        assert re.search("ranks 0, 1 share memory: /dev/shm/apts-test-", doubts)


@pytest.mark.parametrize("way", [
    ways.log_of_each_rank, ways.log_of_all_ranks, ways.lock_of_all_ranks, ways.swapped_out,
    ways.temporary_files_in_turn, ways.output_of_all_ranks,
    ways.data_of_before, ways.compiled_code, ways.loader, ways.pool, ways.statistics_by_udp,
    ways.names_and_interfaces, ways.group_in_each_step])
def test_what_ranks_do_for_themselves_is_no_channel(way, short_path):
    assert run_ranks(taken, 2, way, str(short_path)) == [(None, [])] * 2


@pytest.mark.parametrize("unreadable", [
    "transferred_bytes", "child_processes", "open_files", "socket_ends"])
def test_what_cannot_be_read_is_stated_and_ends_nothing(unreadable, short_path):
    for doubts, unread in run_ranks(taken, 2, ways.log_of_each_rank, str(short_path),
                                    (unreadable,)):
        assert doubts is None
        assert any("PermissionError: not permitted here" in line for line in unread)


def test_files_are_compared_also_where_the_kernel_counts_no_reads_and_writes(short_path):
    for doubts, _ in run_ranks(taken, 2, ways.files_of_numpy, str(short_path),
                               ("transferred_bytes",)):
        assert re.search("ranks 0, 1 exchange data through .*/0-0.npy", doubts)


def seen(sent=(), received=(), place="here", store_bytes=0):
    return hidden_channels.SeenChannels(set(sent), set(received), place, store_bytes, 1000)


@pytest.mark.parametrize(("ranks", "lines"), [
    ([seen("a", "a"), seen("b", "b")], []),  # its own file
    ([seen("a"), seen("a")], []),  # a log that none reads
    ([seen((), "a"), seen((), "a")], []),  # data
    ([seen("a"), seen((), "a"), seen("b", "b")], ["ranks 0, 1 exchange data through a, "]),
    ([seen("a"), seen((), "a"), seen((), "a")], ["ranks 0, 1, 2 exchange data through a, "]),
    ([seen("abcde"), None, seen((), "abcde")],
     ["ranks 0, 2 exchange data through a, b, c and 2 more, "]),
    ([seen("a"), seen((), "a", "elsewhere")], []),  # another file of this name
    ([seen(store_bytes=1000), seen(store_bytes=1000)], []),
    ([seen(store_bytes=1001), seen(), seen(store_bytes=2000)],
     ["ranks 0, 2 exchange data through the store (2000 bytes of rank 2 in training, "
      "allowed are 1000), "]),
])
def test_a_channel_is_what_one_sends_to_and_another_receives_from(ranks, lines):
    end = "behind the meter's back: send it through torch.distributed"
    assert channel_complaints(ranks) == [line + end for line in lines]


@pytest.mark.parametrize(("on_step", "named"), [
    ("open(f'{os.environ[\"TMPDIR\"]}/{self.steps}-{rank}', 'wb').write(bytes(20000)); "
     "dist.barrier(); "
     "open(f'{os.environ[\"TMPDIR\"]}/{self.steps}-{1 - rank}', 'rb').read()", "/1-0, "),
    pytest.param(
        "s = dist.distributed_c10d._get_default_store(); s.set(f'{self.steps}-{rank}', "
        "bytes(20000)); s.get(f'{self.steps}-{1 - rank}')", "the store (",
        marks=pytest.mark.slow)])
def test_a_trial_that_exchanges_data_by_other_ways_is_an_error(
        on_step, named, command, plugin, tmp_path, short_path, monkeypatch, environment):
    monkeypatch.setitem(environment, "TMPDIR", str(short_path))
    command("run", "--gpus", "2", "--optimizers", plugin(on_step=on_step), "--trials", "0",
            "--seeds", "1", "--no-twins", "--no-report", "--offline", "--set",
            "suite.budget.samples=1280", "--out", tmp_path)
    (record,) = store.read_trials(tmp_path / "digits")
    assert record.end.status == "error"
    assert record.end.reason.startswith("ranks 0, 1 exchange data through")
    assert named in record.end.reason
    assert record.end.audit.parts["train"].difference == 0


@pytest.mark.slow
def test_a_plug_in_with_a_loader_and_a_log_is_no_cheat(command, plugin, tmp_path):
    """Its workers, their pipes and sockets live through all pauses."""
    lines = ["import torch", "D = torch.utils.data",
             "self.loader = getattr(self, 'loader', None) or iter(D.DataLoader("
             "D.TensorDataset(torch.ones(999, 4)), num_workers=1))", "next(self.loader)",
             f"open(f'{tmp_path}/{{rank}}.log', 'a').write('loss 0.5\\n' * 20)"]
    command("run", "--gpus", "2", "--optimizers", plugin(on_step="; ".join(lines)), "--trials",
            "0", "--seeds", "1", "--no-twins", "--no-report", "--offline", "--set",
            "suite.budget.samples=1280", "--out", tmp_path)
    (record,) = store.read_trials(tmp_path / "digits")
    assert record.end.reason is None
    assert record.finished
    assert record.end.audit.unread == []
    assert (tmp_path / "1.log").stat().st_size > 2000
