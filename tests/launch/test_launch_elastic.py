"""Trials in real processes: however they end, there is a record and no process left."""

import os
import re
import signal
import time
from contextlib import suppress

import msgspec
import psutil
import pytest
import torch_names

from bench_apts.core import store
from bench_apts.core.job import RankJob
from bench_apts.core.records import End, Header
from bench_apts.launch.elastic import Launcher
from bench_apts.launch.processes import ProcessOutcome


@pytest.fixture(scope="module")
def launcher(make_trial, digits, tmp_path_factory):
    saved = dict(os.environ)
    with Launcher([], "cpu") as launcher:
        # The server and the resource tracker start once and stay from trial to trial.
        attempt(launcher, make_trial("sgd"), digits, tmp_path_factory.mktemp("warm"), 250)
        yield launcher
    os.environ.clear()
    os.environ.update(saved)


def attempt(launcher, trial, digits, folder, limit_s):
    events = folder / f"{trial.run_id}.jsonl"
    store.append(events, Header(trial.run_id, store.now(), trial, {}))
    outcome = launcher.run(RankJob(trial, str(digits.folder), str(events)), limit_s)
    return outcome, store.read_trial(events)


def children():
    """Returns the living descendants of this process, zombies aside."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


@pytest.fixture
def run(launcher, make_trial, digits, tmp_path, processes):
    """Runs a trial; returns its outcome and record once no process of it is left."""

    def run(selector, ranks=2, limit_s=250.0, overrides=()):
        there = children()
        result = attempt(launcher, make_trial(str(selector), ranks, overrides), digits, tmp_path,
                         limit_s)
        processes.wait_for(lambda: children() <= there)
        return result

    return run


def test_a_trial_runs_to_its_end(run):
    outcome, record = run("sgd")
    assert outcome == ProcessOutcome(record.end.status)
    assert record.end.status in ("hit", "miss")
    assert record.evals[-1].samples == 1280
    assert record.start.comm_meter == torch_names.METER
    assert record.start.process_group == "gloo"


def test_a_plugin_file_trains(run, plugin):
    outcome, record = run(plugin())
    assert outcome.reason is None
    assert record.evals[-1].samples == 1280
    losses = [e.validation["loss"] for e in record.evals]
    assert losses[-1] < losses[0]
    steps = record.evals[-1].step
    traffic = record.end.comm["train"]["all_reduce"]
    assert traffic.ideal_bytes == steps * 4 * record.start.parameters


def test_the_first_step_starts_from_the_initial_weights_whatever_warming_up_did(run, digits):
    import torch

    from bench_apts.suites import data, models
    from bench_apts.trial.loader import Order
    from bench_apts.trial.trained_model import weights_sha256

    _, record = run("sgd", 1, overrides=(
        "suite.batch_size=320", "suite.budget.samples=320", "suite.evaluation.every_samples=320"))
    suite, seeds = record.trial.suite, record.trial.seeds
    arrays = data.load(digits.folder)
    train, validation = data.split(arrays.train_targets, suite.data.validation, suite.data.name)
    inputs, targets = (torch.tensor(a) for a in (arrays.train_inputs, arrays.train_targets))
    torch.manual_seed(seeds.init)
    model = models.build("mlp", suite.model.options, arrays.input_shape, arrays.classes)
    assert record.start.initial_weights_sha256 == weights_sha256(model)
    batch = torch.tensor(train)[next(Order(len(train), seeds.data).slices(320, 0, 1))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
    optimizer.step()
    loss = torch.nn.functional.cross_entropy(model(inputs[validation]), targets[validation])
    assert [e.step for e in record.evals] == [0, 1]
    assert record.evals[1].validation["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record.evals[0].validation["loss"] != pytest.approx(loss.item(), rel=1e-5)
    assert [(e.forwards, e.backwards) for e in record.evals] == [(0, 0), (1, 1)]


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_in_one_rank_names_the_rank_and_the_message(run, plugin, rank):
    path = plugin(on_step=f"if rank == {rank} and self.steps == 8: "
                          "raise ValueError('the [red]cat sat\\non it')")
    outcome, record = run(path)
    assert outcome.status == "error"
    assert re.fullmatch(rf"rank {rank}: ValueError: the \[red\]cat sat on it \(mine\.py:\d+\)",
                        outcome.reason)
    assert "raise ValueError" in outcome.traceback
    assert "mine.py" in outcome.traceback
    assert record.end is None, "the launcher's caller writes the end"
    assert len(record.evals) == 1


def test_an_exception_while_building_is_told(run, plugin):
    path = plugin()
    path.write_text(path.read_text().replace("return Stepper(", "return Steper("))
    outcome, record = run(path)
    assert outcome.status == "error"
    assert "NameError: name 'Steper' is not defined" in outcome.reason
    assert record.start is None


def test_a_rank_that_exits_without_a_word(run, plugin):
    outcome, _ = run(plugin(on_step="if rank == 1 and self.steps == 8: os._exit(3)"))
    assert outcome.status == "error"
    assert outcome.reason == "rank 1 exited with code 3, saying nothing"


@pytest.mark.parametrize("code", [0, 5])
def test_a_rank_that_calls_exit_has_not_finished(run, plugin, code):
    outcome, _ = run(plugin(on_step=f"if self.steps == 8: sys.exit({code})"), ranks=1)
    assert outcome.status == "error"
    assert f"rank 0: RuntimeError: it called sys.exit({code}) (mine.py:" in outcome.reason
    assert "mine.py" in outcome.traceback


def test_an_error_that_is_no_text_can_be_recorded(run, plugin, tmp_path):
    outcome, _ = run(plugin(
        on_step="if self.steps == 8: raise ValueError(os.fsdecode(b'no \\xff'))"), ranks=1)
    assert "rank 0: ValueError: no \\udcff (mine.py:" in outcome.reason
    path = tmp_path / "end.jsonl"
    store.append(path, End("error", "", 0.0, reason=outcome.reason,
                           traceback=outcome.traceback))
    assert b"udcff" in path.read_bytes()


def test_a_store_that_cannot_be_opened_is_the_trials_error(launcher, make_trial, digits, tmp_path,
                                                     monkeypatch):
    from torch.distributed import DistStoreError

    def fail():
        raise DistStoreError("no\nsocket")

    with monkeypatch.context() as patch:
        patch.setattr("bench_apts.launch.elastic.host_store", fail)
        outcome, record = attempt(launcher, make_trial("sgd"), digits, tmp_path, 250)
    assert outcome.status == "error"
    assert "(DistStoreError: no socket)" in outcome.reason
    assert record.end is None
    assert attempt(launcher, make_trial("sgd"), digits, tmp_path, 250)[0].reason is None


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_rank_that_is_killed(run, plugin, name):
    outcome, _ = run(plugin(
        on_step=f"if rank == 1 and self.steps == 8: os.kill(os.getpid(), signal.{name})"))
    assert outcome.status == "error"
    assert outcome.reason.startswith(f"rank 1 was ended by {name}")
    assert ("out of memory" in outcome.reason) is (name == "SIGKILL")


def test_memory_that_runs_out_has_a_status_of_its_own(run, plugin):
    outcome, _ = run(plugin(on_step="if self.steps == 8: raise RuntimeError('Out of memory: 1')"))
    assert outcome.status == "oom"
    assert "Out of memory" in outcome.reason


@pytest.fixture
def hang(run, plugin, tmp_path):
    """Has some ranks wait for ever at a step; returns the time limit and how the trial ended.

    The limit is one that lets them get there in half of it, however slow the machine is.
    """

    def hang(*ranks, before="pass"):
        flags = [tmp_path / f"rank-{rank}" for rank in ranks]
        path = plugin(on_step=(
            f"{before}; rank in {ranks} and self.steps == 8 and "
            f"(open({str(tmp_path)!r} + f'/rank-{{rank}}', 'w').close(), time.sleep(600))"))
        for limit_s in (6.0, 24.0, 96.0):
            began = time.time()
            # Another budget makes it another trial, which has its own logs.
            outcome, record = run(path, limit_s=limit_s,
                                  overrides=(f"suite.budget.seconds={100 + limit_s}",))
            if all(flag.exists() and began < flag.stat().st_mtime < began + limit_s / 2
                   for flag in flags):
                return limit_s, outcome, record
        raise AssertionError("the ranks never got there")

    return hang


def test_a_trial_beyond_its_limit_is_killed(hang):
    # The ranks ignore polite requests, as one that hangs in a collective does.
    limit_s, outcome, record = hang(
        0, 1, before="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert outcome.status == "timeout"
    assert re.fullmatch(rf"killed after {limit_s:.0f} s; ranks 0, 1 were in step "
                        r"\(mine\.py, line \d+\)", outcome.reason)
    assert record.end is None


def test_a_rank_that_hangs_is_named(hang):
    limit_s, outcome, record = hang(1)
    assert outcome.status == "timeout"
    # One waits for the other, which is where it should not be for so long.
    assert re.fullmatch(rf"killed after {limit_s:.0f} s; rank 0 was in \w+ "
                        r"\(\w+\.py, line \d+\), rank 1 in step \(mine\.py, line \d+\)",
                        outcome.reason)
    assert "rank 0 was in step" not in outcome.reason
    assert len(record.evals) == 1


def test_a_budget_of_seconds_ends_a_trial(run, plugin):
    outcome, record = run(plugin(on_step="time.sleep(0.02)"), overrides=(
        "suite.budget.seconds=0.2", "suite.budget.samples=100_000"))
    assert outcome.status == record.end.status == "timeout"
    assert record.evals[-1].train_s >= 0.2
    assert record.end.samples < 100_000


def test_a_diverging_trial_ends_at_once_and_is_billed(run):
    outcome, record = run("sgd[lr=1e4]", overrides=("suite.budget.samples=100_000",))
    assert outcome.status == record.end.status == "diverged"
    assert 0 < record.end.samples < 100_000
    assert record.end.samples == record.evals[-1].samples
    assert record.end.ledger["train_s"] > 0
    assert record.end.comm["train"]["all_reduce"].ideal_bytes > 0


def test_numbers_that_are_none_diverge(run, plugin):
    path = plugin(on_step="batch = batch._replace(inputs=batch.inputs * float('nan')) "
                          "if self.steps > 7 else batch")
    outcome, record = run(path)
    assert outcome.status == "diverged"
    assert record.evals[-1].train_loss is None
    assert "loss" not in record.evals[-1].validation
    assert msgspec.json.encode(record)


def test_stopping_is_agreed_on_by_all_ranks(run, plugin):
    # One rank alone sees a loss without bound; both must stop, and say so.
    path = plugin(on_step="self.loss = self.loss if self.steps < 8 or rank == 0 else "
                          "(lambda *a, **k: (a[0].sum() * float('inf')))")
    outcome, record = run(path)
    assert outcome.status == record.end.status == "diverged"


def test_evaluations_come_at_fixed_numbers_of_samples(run):
    for ranks in (1, 2):
        _, record = run("sgd", ranks, overrides=("suite.evaluation.every_samples=300",))
        # Every 300 samples, rounded up to whole steps of 64, and the end of the budget.
        assert [e.samples for e in record.evals] == [0, 320, 640, 960, 1216, 1280]


def test_signals_are_as_before(run):
    before = {number: signal.getsignal(number)
              for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    run("sgd", 1)
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_nothing_of_a_trial_is_left_to_the_next(run, plugin):
    # A trial that poisons its process: the next one must not notice.
    poison = plugin("poison.py", on_step="sys.modules['torch'].nn.functional.linear = None; "
                                         "os.environ['POISON'] = '1'")
    outcome, _ = run(poison)
    assert outcome.status == "error"
    outcome, _ = run(plugin("clean.py", on_step="assert 'POISON' not in os.environ"))
    assert outcome.reason is None


@pytest.mark.usefixtures("cold")
def test_spawning_works_where_forking_does_not(make_trial, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Launcher([], "cpu", start_method="spawn") as launcher:
        outcome, record = attempt(launcher, make_trial("sgd"), digits, tmp_path, 250)
    assert outcome.reason is None
    assert record.end.status == outcome.status


@pytest.fixture
def trials_of_one_server(make_trial, digits, tmp_path, plugin, monkeypatch):
    """Runs trials of a plug-in whose build imports a module; returns whether each found it."""
    from bench_apts.launch import late_imports

    monkeypatch.setattr(late_imports, "_MANY", 1)

    def run(name, count=3):
        path = plugin(on_step=f"import sys; open({str(tmp_path / 'found')!r}, 'a').write(str(int("
                              f"{name!r} in sys.modules))); import {name}")
        trial = make_trial(str(path), 1)
        found = []
        with Launcher([], "cpu") as launcher:
            for _ in range(count):
                outcome, _record = attempt(launcher, trial, digits, tmp_path, 250)
                assert outcome.status in ("hit", "miss"), outcome
                found.append((tmp_path / "found").read_text()[0])
                (tmp_path / "found").unlink()
                (tmp_path / f"{trial.run_id}.jsonl").unlink()
        return found

    return run


def test_what_an_optimizer_imports_late_is_imported_once(trials_of_one_server):
    assert trials_of_one_server("mailbox") == ["0", "1", "1"]


def test_a_module_that_starts_a_thread_is_left_to_the_ranks(
        trials_of_one_server, tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "ticking.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n")
    monkeypatch.syspath_prepend(str(folder))
    assert trials_of_one_server("ticking") == ["0", "0", "0"]


@pytest.mark.skipif(not torch_names.CUDA_BUILD, reason="torch is built without CUDA")
def test_a_package_that_uses_cuda_when_it_is_imported_does_not_spoil_the_ranks(
        make_trial, digits, tmp_path, monkeypatch):
    (tmp_path / "early_cuda.py").write_text(
        "import torch\ntorch._C._cuda_getDeviceCount()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("OMP_NUM_THREADS", "PYTORCH_NVML_BASED_CUDA_CHECK", "DS_ACCELERATOR",
                 "CUDA_DEVICE_ORDER", "BENCH_APTS_PRELOAD_CUDA_USER"):
        monkeypatch.setenv(name, "1")  # put back after the test
    notes = []
    with Launcher(["early_cuda"], "cuda") as launcher:
        launcher.note = notes.append
        outcome, record = attempt(launcher, make_trial("sgd", 1), digits, tmp_path, 250)
    assert outcome.reason is None
    assert record.end.status == outcome.status
    assert [note.partition(" ")[0] for note in notes] == ["early_cuda"]
