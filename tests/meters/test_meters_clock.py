"""The clock: every second billed once, to the part that caused it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.meters.clock import PARTS, Clock


class Machine:
    """A host with a device: queued work runs when somebody waits for it."""

    def __init__(self):
        self.time = 100.0
        self.cpu = 5.0
        self.queued = 0.0
        self.waits = 0

    def work(self, seconds):
        self.time += seconds
        self.cpu += seconds

    def queue(self, seconds):
        self.queued += seconds

    def synchronize(self):
        self.waits += 1
        self.time += self.queued
        self.queued = 0.0

    def clock(self):
        return Clock(self.synchronize, lambda: self.time, lambda: self.cpu)


def test_queued_device_work_is_billed_to_the_part_that_queued_it():
    machine = Machine()
    clock = machine.clock()
    clock.switch("train")
    machine.work(1)
    machine.queue(10)
    clock.switch("eval")
    machine.work(2)
    machine.queue(20)
    clock.switch("train")
    machine.work(3)
    assert clock.seconds("train") == 1 + 10 + 3
    assert clock.seconds("eval") == 2 + 20
    assert clock.cpu_seconds("train") == 1 + 3
    assert clock.cpu_seconds("eval") == 2


def test_only_a_change_of_part_waits_for_the_device():
    machine = Machine()
    clock = machine.clock()
    clock.switch("train")
    before = machine.waits
    for _ in range(10):
        machine.queue(1)
        machine.work(1)
        clock.seconds("train")
        clock.cpu_seconds("train")
        clock.ledger()
        assert clock.wall > 0
    assert machine.waits == before
    assert machine.queued == 10


@given(st.lists(st.tuples(st.sampled_from(PARTS), st.integers(0, 50), st.integers(0, 50))))
def test_parts_sum_to_the_wall_clock(stretches):
    machine = Machine()
    clock = machine.clock()
    spent = dict.fromkeys(PARTS, 0)
    for part, work, queued in stretches:
        clock.switch(part)
        machine.work(work)
        machine.queue(queued)
        spent[part] += work + queued
    clock.switch("log")
    assert clock.ledger() == {f"{part}_s": seconds for part, seconds in spent.items()}
    assert sum(clock.ledger().values()) == clock.wall == machine.time - 100


def test_blocks_return_to_the_part_before():
    machine = Machine()
    clock = machine.clock()
    clock.switch("train")
    with clock.during("eval"):
        machine.work(1)
        with clock.during("log"):
            machine.work(2)
            assert clock.part == "log"
        machine.work(4)
        assert clock.part == "eval"
    assert clock.part == "train"
    machine.work(8)
    with pytest.raises(ZeroDivisionError), clock.during("checkpoint"):
        machine.work(16 / (machine.work(16) or 0))
    assert clock.part == "train"
    assert [clock.seconds(p) for p in ("train", "eval", "log", "checkpoint")] == [8, 5, 2, 16]


def test_a_running_stretch_counts():
    machine = Machine()
    clock = machine.clock()
    machine.work(3)
    assert clock.part == "setup"
    assert clock.seconds("setup") == clock.wall == 3
    assert clock.seconds("train") == 0
    assert clock.ledger()["setup_s"] == 3


def test_unknown_parts_are_refused():
    clock = Machine().clock()
    with pytest.raises(ValueError, match="lunch"):
        clock.switch("lunch")
    assert clock.part == "setup"


def test_real_clocks_agree():
    clock = Clock()
    clock.switch("train")
    sum(range(200_000))
    clock.switch("eval")
    ledger = clock.ledger()
    assert 0 < ledger["train_s"] <= clock.wall
    assert clock.cpu_seconds("train") > 0
    assert sum(ledger.values()) == pytest.approx(clock.wall, rel=0.01, abs=1e-3)
