"""The clock: every second billed once, to the part that caused it."""

import dataclasses
import sys
from types import SimpleNamespace

import msgspec
import pytest
from harness_ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core import store
from bench_apts.core.job import RankJob
from bench_apts.meters import soundness
from bench_apts.meters.clock import PARTS, Clock

KEPT = {f"{part}_s" for part in PARTS if part != "data"}
"""Parts of every ledger; what was not streamed has no ``data_s``."""

STEP, EVALUATION = 3.0, 100.0
WARMUP = {1: 3 + 1, 2: 3 + 2}  # the first step is taken once more at one rank, else twice


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
    assert clock.ledger() == {f"{part}_s": seconds for part, seconds in spent.items()
                              if seconds or part != "data"}
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


def test_waiting_for_data_is_billed_aside_without_a_wait_for_the_device():
    machine = Machine()
    clock = machine.clock()
    with clock.aside("data"):  # in the warm-up, to which all of it belongs
        machine.work(1)
    clock.switch("train")
    before = machine.waits
    machine.work(2)
    machine.queue(50)
    with clock.aside("data"):
        machine.work(4)
    machine.work(8)
    assert machine.waits == before
    clock.switch("eval")
    assert clock.ledger()["data_s"] == 4
    assert clock.seconds("train") == 2 + 8 + 50
    assert clock.cpu_seconds("train") == 2 + 8
    assert clock.seconds("setup") == 1
    assert sum(clock.ledger().values()) == clock.wall


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
    before, ledger, after = clock.wall, clock.ledger(), clock.wall
    assert 0 < ledger["train_s"] <= after
    assert clock.cpu_seconds("train") > 0
    # Between two readings others may use the machine, however long.
    assert before - 1e-9 <= sum(ledger.values()) <= after + 1e-9
    wall, ledger = clock.closed()
    assert abs(sum(ledger.values()) - wall) < 1e-9


def on_a_late_device(connect, job):
    """Runs a whole trial whose steps and evaluations only queue what a device does later."""
    import torch

    from bench_apts.meters.comm import CollectiveCounter
    from bench_apts.trial import observer
    from bench_apts.trial import trial_run as trial

    machine = Machine()
    observer._now = lambda: machine.time  # the second clock
    sys.modules["late_device"] = SimpleNamespace(queue=lambda: machine.queue(STEP))
    torch.cuda.synchronize = machine.synchronize
    wait, evaluate = trial.TrialRun._synchronize, trial.evaluate

    def as_if_on_cuda(run):
        host, run.world = run.world, dataclasses.replace(run.world, device=torch.device("cuda"))
        wait(run)
        run.world = host

    def evaluate_late(*arguments):
        machine.queue(EVALUATION)
        result = evaluate(*arguments)
        machine.synchronize()  # numbers that the host reads have waited for the device
        return result

    trial.TrialRun._synchronize, trial.evaluate = as_if_on_cuda, evaluate_late
    meter = CollectiveCounter()
    meter.install()
    connect()
    run = trial.TrialRun(msgspec.json.decode(job, type=RankJob), machine.clock(), meter,
                    torch.device("cpu"))
    return run.execute(), machine.waits, machine.queued


@pytest.mark.parametrize("size", [1, 2])
def test_a_trial_bills_queued_work_to_training_and_not_to_the_evaluation_that_waits(
        size, plugin, make_trial, digits, tmp_path):
    path = plugin(on_step="sys.modules['late_device'].queue()")
    trial = make_trial(path, ranks=size)
    events = tmp_path / f"{trial.run_id}.jsonl"
    store.append(events, store.Header(trial.run_id, store.now(), trial, {}))
    job = msgspec.json.encode(RankJob(trial, str(digits.folder), str(events)))
    ranks = run_ranks(on_a_late_device, size, job)
    assert [(status, queued) for status, _, queued in ranks] == [("miss", 0.0)] * size
    record = store.read_trial(events)
    *_, last = record.evals
    assert len(record.evals) == 3
    assert last.step > 10
    for number, event in enumerate(record.evals):
        assert event.train_s == STEP * event.step
        assert event.wall_s == STEP * (WARMUP[size] + event.step) + EVALUATION * (number + 1)
    test = record.trial.stage == "report"
    assert record.end.ledger == dict.fromkeys(KEPT, 0.0) | {
        "warmup_s": STEP * WARMUP[size], "train_s": STEP * last.step,
        "eval_s": EVALUATION * (len(record.evals) + test)}
    assert record.end.wall_s == sum(record.end.ledger.values())
    assert all(waits < last.step for _, waits, _ in ranks), "a step must not wait for the device"


def test_the_ledger_of_every_trial_sums_to_its_wall_clock(finished):
    for record in finished.records:
        assert set(record.end.ledger) == KEPT
        assert min(record.end.ledger.values()) >= 0
        assert soundness.ledger_gap(record) is None
        assert sum(record.end.ledger.values()) == pytest.approx(record.end.wall_s, rel=0.01)
        # The clock of each event is that of the ledger.
        assert record.evals[-1].train_s == pytest.approx(record.end.ledger["train_s"], rel=0.01)
