"""What the harness's tests share: real commands, a plug-in, trials on the bundled digits."""

import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import warm_processes
from filelock import FileLock
from hypothesis import settings

from bench_apts.cli import main
from bench_apts.core import store
from bench_apts.core.configuration import parse_selector
from bench_apts.core.spec import Study
from bench_apts.plugins import registry
from bench_apts.study.plan import Plan

# What a terminal, a git hook, a batch job or make set is not meant for what tests start.
for name in list(os.environ):
    if name.startswith(("GIT_", "SLURM_")) or name in (
            "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "LANGUAGE",
            "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "VERSION"):
        del os.environ[name]
os.environ["LC_ALL"] = "C.UTF-8"
# Some hundred interpreters would compile the same files, and each worker all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The same examples on every run, so that one failure in a thousand is found where it was made;
# `--hypothesis-profile random` looks for new ones. Neither counts seconds.
settings.register_profile("random", settings.get_profile("ci"), derandomize=False)
settings.load_profile("ci")

warm_processes.serve_multiprocessing()

# Begun first, so that no worker is left with one of them at the end. Not in the order of their
# seconds, which change: each takes more than ten.
LONG = (
    "test_conformance_examined", "test_run_study", "test_launch_elastic", "test_startups",
    "test_optimizers_backends", "test_meters_channels", "test_meters_unmeasured",
    "test_report_untrained", "test_conformance_plugins", "test_search", "test_report_html",
    "test_gate_commands", "test_report_tuning", "test_optimizers_paper_ranks",
    "test_launch_interrupts", "test_report_replays", "test_optimizers_apts_swaps",
    "test_meters_standalone", "test_optimizers_apts_ranks", "test_bench_start", "test_soundness",
    "test_cli_commands", "test_meters_peerless", "test_process_limits", "test_meters_audit",
    "test_optimizers_baselines", "test_launch_nodes_commands", "test_network_projection",
    "test_fake_gpu", "test_report_browser", "test_report_noise", "test_report_projected",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    # The collector would otherwise look at all modules of torch time and again.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


SMALL = ("--set", "suite.budget.samples=2000", "--set", "suite.evaluation.every_samples=500")

PLUGIN = '''
from __future__ import annotations

import copy
import os
import signal
import sys
import time

from bench_apts.contract import Backend, Hyperparameter, LogUniform, StepReport


class Stepper:
    def __init__(self, model, loss, values, world):
        import torch

        self.model, self.loss, self.world = model, loss, world
        self.optimizer = torch.optim.SGD(model.parameters(), lr=values["lr"])
        self.steps = 0

    def step(self, batch):
        import torch.distributed as dist

        rank = self.world.rank
        self.steps += 1
        {on_step}
        self.optimizer.zero_grad()
        loss = self.loss(self.model(batch.inputs), batch.targets)
        loss.backward()
        for parameter in self.model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world.size
        self.optimizer.step()
        return StepReport(loss.detach(), len(batch.targets), 1, 1)

    def state_dict(self):
        return copy.deepcopy([self.model.state_dict(), self.optimizer.state_dict(), self.steps])

    def load_state_dict(self, state):
        self.model.load_state_dict(state[0])
        self.optimizer.load_state_dict(state[1])
        self.steps = state[2]

    def evaluation_model(self):
        return self.model


def build(model, loss, values, world):
    return Stepper(model, loss, values, world)


backend = Backend(
    name="mine",
    summary="plain gradient descent",
    hyperparameters={{"lr": Hyperparameter(0.1, "learning rate", LogUniform(1e-2, 1.0))}},
    build=build,
    {options}
)
'''


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache of decoded data for the whole session, away from the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cold():
    """Lets multiprocessing start new interpreters, for tests of what they find."""
    with warm_processes.suspended():
        yield


@pytest.fixture
def short_path():
    """A folder for temporary files of commands: sockets in pytest's own may have no room."""
    with tempfile.TemporaryDirectory(prefix="apts-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def environment(cache):
    """The environment of commands: our cache, no data of the user's, CPU ranks everywhere."""
    # Lists the machine's fonts once; a command that has to says so where it takes over 5 s.
    importlib.import_module("matplotlib.font_manager")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BENCH_APTS_")}
    return kept | {"BENCH_APTS_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONWARNINGS": ""}


@pytest.fixture(scope="session")
def command(environment):
    """Runs ``bench-apts …`` in a process of its own."""

    def run(*arguments, cwd=None):
        return warm_processes.run([sys.executable, "-m", "bench_apts", *map(str, arguments)],
                                  cwd=cwd, env=environment)

    return run


@pytest.fixture
def started(environment):
    """Starts ``bench-apts …`` in a session of its own, and leaves nothing of it behind."""
    running = []

    def start(*arguments):
        process = warm_processes.WarmPopen(
            [sys.executable, "-m", "bench_apts", *map(str, arguments)], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            # A shell that runs the tests in the background has them ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        running.append(process)
        return process

    yield start
    for process in running:
        end_session(process.pid)
        process.communicate()


def session(leader):
    """Returns the living processes of a session, zombies aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if (os.getsid(process.pid) == leader
                    and process.status() != psutil.STATUS_ZOMBIE):
                found.append(process)
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return found


def end_session(leader):
    """Kills what is left of a session."""
    for process in session(leader):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def wait_for(condition, patience_s=200):
    """Waits until ``condition()`` holds and returns what it returned; fails if it never does."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


@pytest.fixture
def processes():
    """Has ``session(leader)``, ``end_session(leader)`` and ``wait_for(condition)``."""
    return SimpleNamespace(session=session, end_session=end_session, wait_for=wait_for)


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path, cache):
    """Runs ``bench-apts …`` in this process, in ``tmp_path``; returns code, output and errors."""
    # A launcher sets variables for its processes. Taken before anything is patched, as a fixture
    # that uses this one may undo the patches before the variables are given back.
    saved = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_APTS_CACHE", str(cache))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("BENCH_APTS_DATA", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench-apts", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    yield run
    os.environ.clear()
    os.environ.update(saved)


@pytest.fixture
def plugin(tmp_path):
    """Writes a whole backend into a file; ``on_step`` is a line run before each step."""

    def write(name="mine.py", on_step="pass", options=""):
        path = tmp_path / name
        path.write_text(PLUGIN.format(on_step=on_step, options=options))
        return path

    return write


@pytest.fixture(scope="session")
def digits(cache):
    """The bundled digits, decoded."""
    from bench_apts.suites import data

    return data.prepare("digits", None, offline=True, cache=cache)


@pytest.fixture(scope="session")
def make_study():
    """Makes a study on digits from selectors."""

    def make(*selectors, overrides=(), ranks=(1,), trials=2, seeds=1, base_seed=0,
             twins=False):
        suite = registry.suite("digits", (
            "suite.budget.samples=1280", "suite.evaluation.every_samples=640", *overrides))
        return Study(suites=(suite,), entries=tuple(parse_selector(str(s)) for s in selectors),
                     ranks=ranks, trials=trials, seeds=seeds, base_seed=base_seed, device="cpu",
                     twins=twins)

    return make


@pytest.fixture(scope="session")
def make_trial(make_study, digits):
    """Makes the report-stage trial of one selector at one N."""

    def make(selector, ranks=1, overrides=()):
        study = make_study(selector, overrides=overrides, ranks=(ranks,), trials=0)
        (trial,) = Plan(study, {"digits": digits}).reporting([])
        return trial

    return make


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """``made_once(name, make)``: a copy of the folder that ``make(folder)`` fills.

    Of several pytest workers the first one fills it; each has a copy of its own to change.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def copy(name, make):
        original, made = shared / f"made-once-{name}", shared / f"made-once-{name}.made"
        with FileLock(f"{original}.lock"):
            if not made.exists():
                shutil.rmtree(original, ignore_errors=True)
                original.mkdir()
                make(original)
                made.touch()
        return Path(shutil.copytree(original, tmp_path_factory.mktemp(name) / "copy"))

    return copy


@pytest.fixture(scope="session")
def finished(command, made_once):
    """A small study from end to end, by the real command."""
    options = ("run", "--gpus", "1,2", "--optimizers", "sgd,adam,apts", "--trials", "2",
               "--seeds", "1", "--offline", *SMALL, "--out")

    def make(folder):
        done = command(*options, folder / "results")
        assert done.returncode == 0, done.stderr
        (folder / "output.json").write_text(json.dumps(
            [str(folder), done.stdout, done.stderr]), "utf-8")

    folder = made_once("study", make)
    original, *output = json.loads((folder / "output.json").read_text("utf-8"))
    # As if the command had been told to write here.
    out, err = (text.replace(original, str(folder)) for text in output)
    results = folder / "results" / "digits"
    return SimpleNamespace(done=SimpleNamespace(stdout=out, stderr=err),
                           arguments=(*options, folder / "results"), folder=results,
                           records=store.read_trials(results))


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the figures of reports empty, for tests that read what stands beside them."""
    from bench_apts.reports import canvas, workers

    empty = '<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt"/>'
    monkeypatch.setattr(canvas.Figure, "rendered", (empty, "0 0 1 1"))
    monkeypatch.setattr(workers, "_WORTH_A_WORKER", sys.maxsize)
