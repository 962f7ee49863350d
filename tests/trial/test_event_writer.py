"""A trial's events reach the disk while it goes on, and what fails there is raised."""

import errno
import os
import threading

import msgspec
import pytest

from bench_apts.core.records import End, Eval, Event, Start
from bench_apts.trial import event_writer
from bench_apts.trial.event_writer import EventWriter

START = Start(10, "ab", "cd", 1197, 300, "c10d pre-hook", "gloo")
END = End("hit", "2026-01-01T00:00:00+00:00", 1.5, {"train_s": 1.0}, reason=None)
PATIENCE_S = 30


def evaluation(step):
    return Eval(step=step, samples=64 * step, epoch=0.1, train_s=0.25, wall_s=0.5, cpu_s=0.125,
                forwards=step, backwards=step, peak_memory_bytes=2**20, train_loss=2.5,
                validation={"accuracy": 0.5}, comm={})


def written(path):
    return [msgspec.json.decode(line, type=Event) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trial.jsonl"


def test_an_event_is_seen_at_once_and_the_next_one_waits_for_the_disk(path, monkeypatch):
    disk, synced, sync = threading.Event(), [], os.fsync

    def slow(number):
        assert disk.wait(PATIENCE_S)
        sync(number)
        synced.append(len(written(path)))

    monkeypatch.setattr(event_writer.os, "fsync", slow)
    writer = EventWriter(path)
    writer.write(START)
    assert written(path) == [START]
    assert not synced
    disk.set()
    writer.write(evaluation(0))
    assert synced[0] == 1, "of the event before, alone"
    writer.write(END)
    writer.settle()
    assert written(path) == [START, evaluation(0), END]
    assert synced == [1, 2, 3]


@pytest.mark.parametrize("at_end", [False, True])
def test_what_the_disk_refuses_is_raised_before_the_next_event_or_at_the_end(
        at_end, path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = EventWriter(path)
    with monkeypatch.context() as patch:
        patch.setattr(event_writer.os, "fsync", full)
        writer.write(evaluation(0))
        with pytest.raises(OSError, match="No space left"):
            writer.settle() if at_end else writer.write(END)
    assert written(path) == [evaluation(0)]


def test_what_no_reader_could_read_is_not_written(path):
    with pytest.raises(msgspec.ValidationError):
        EventWriter(path).write(msgspec.structs.replace(evaluation(0), step="one"))
    assert not path.exists()
