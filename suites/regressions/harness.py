"""What the harness adds: to a step, to a collective, to a record, to the start of a command."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .backend_costs import marked

COMMANDS = ("--help", "list", "report --help", "run --help")

_STEPS = 200

_MODULES = """
import sys
from bench_apts.cli import main
sys.argv = ["bench-apts", *sys.argv[1:]]
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
print("modules:", len(sys.modules))
sys.exit(code)
"""


@marked(unit="calls", version="1", timeout=120)
def track_python_calls_per_step() -> float:
    """Calls of functions, Python's and built-in, in a training step that changes nothing.

    The counts of two trials are subtracted, one with twice the steps of the other: what happens
    once in a trial goes. Unlike seconds it is the same in every run.
    """
    _calls(_STEPS)  # for what happens once in a process
    return (_calls(2 * _STEPS) - _calls(_STEPS)) / _STEPS


def _calls(steps: int) -> int:
    """Count the calls in a trial of one rank from its first event to its last."""
    from bench_apts.meters.clock import Clock
    from bench_apts.meters.comm import CollectiveCounter
    from bench_apts.trial.trial_run import TrialRun

    count = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        dist.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
        try:
            run = TrialRun(_job(steps, Path(folder)), Clock(), CollectiveCounter(),
                           torch.device("cpu"))
            gc.disable()  # finalizers would be called at any time
            sys.setprofile(called)
            run.execute()
        finally:
            sys.setprofile(None)
            gc.enable()
            dist.destroy_process_group()
    if run.totals.step != steps:
        raise RuntimeError(f"the trial took {run.totals.step} steps, not {steps}")
    return count


def _job(steps: int, folder: Path) -> Any:
    """Return a trial with evaluations before its first step and after its last one."""
    from bench_apts.core.configuration import parse_selector
    from bench_apts.core.job import CheckpointJob, RankJob
    from bench_apts.core.spec import Study
    from bench_apts.plugins import registry
    from bench_apts.study.plan import Plan
    from bench_apts.suites import data

    samples = steps * registry.suite("digits").batch_size
    suite = registry.suite("digits", (
        f"suite.budget.samples={samples}", f"suite.evaluation.every_samples={samples}",
        "suite.budget.seconds=3600"))
    nothing = parse_selector(str(Path(__file__).with_name("nothing.py")))
    study = Study(suites=(suite,), entries=(nothing,), ranks=(1,), trials=0, seeds=1, base_seed=0,
                  device="cpu", twins=False)
    prepared = data.prepare("digits", None, offline=True)
    (trial,) = Plan(study, {"digits": prepared}).reporting([])
    return RankJob(trial, str(prepared.folder), str(folder / "trial.jsonl"),
                   saving=CheckpointJob(str(folder / "checkpoints")))


class Meter:
    """An all-reduce of torch's fake process group, which dispatches and sends nothing."""

    params = (["none", "pre-hook", "dispatcher"],)
    param_names = ("meter",)

    def setup(self, meter: str) -> None:
        from asv_runner.benchmarks.mark import SkipNotImplemented
        from torch.testing._internal.distributed.fake_pg import FakeStore

        from bench_apts.meters import comm

        torch.set_num_threads(1)
        os.environ.pop(comm.MECHANISM, None)
        if meter == "dispatcher":
            os.environ[comm.MECHANISM] = "dispatch"
        elif meter == "pre-hook" and comm.mechanism() != "pre-hook":
            raise SkipNotImplemented("this torch has no pre-hook")
        self.meter = comm.CollectiveCounter()
        if meter != "none":
            self.meter.install()
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
        self.meter.phase = "train"
        self.tensor = torch.zeros(1000)

    def teardown(self, meter: str) -> None:
        counted = self.meter.snapshot().get("train", {})
        dist.destroy_process_group()
        if bool(counted) == (meter == "none"):
            raise RuntimeError(f"meter {meter} counted {counted}")

    # A process of its own for each sample: what `install` changes cannot be taken back.
    @marked(version="1", number=1, repeat=1, rounds=8, warmup_time=0)
    def time_10000_all_reduces(self, meter: str) -> None:
        for _ in range(10_000):
            dist.all_reduce(self.tensor)


@marked(version="1")
def time_20_event_appends() -> None:
    """Twenty evaluations' records, each flushed and synced to the disk."""
    from bench_apts.core import store
    from bench_apts.core.records import Eval, Traffic

    event = Eval(
        step=100, samples=6400, epoch=5.3, train_s=1.0, wall_s=2.0, cpu_s=1.0, forwards=100,
        backwards=100, peak_memory_bytes=10**8, train_loss=0.5,
        validation={"accuracy": 0.9, "loss": 0.4},
        comm={"train": {"all_reduce": Traffic(100, 2_628_000, 2_628_000.0)}})
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(20):
            store.append(Path(folder) / "trial.jsonl", event)


@marked(unit="modules", version="1", params=[list(COMMANDS)], param_names=["command"])
def track_modules_at_start(command: str) -> int:
    """Modules that a command has imported when it is done."""
    done = subprocess.run([sys.executable, "-c", _MODULES, *command.split()], check=True,
                          capture_output=True, text=True)
    return int(done.stdout.rpartition("modules:")[2])


@marked(version="1", params=[list(COMMANDS)], param_names=["command"], repeat=(3, 5, 5.0))
def time_start(command: str) -> None:
    """A command from its start to its end."""
    subprocess.run([sys.executable, "-m", "bench_apts", *command.split()], check=True,
                   capture_output=True)
