"""The meter in C++: the same counts as the Python hook's, or one clear line."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import comm_ranks
import pytest
import torch
import torch_names
from comm_ranks import (
    assert_counts_are_the_hooks,
    assert_every_record_was_counted,
    every_collective,
    training,
    watched,
)
from harness_ranks import run_ranks

from bench_apts.core.errors import UserError
from bench_apts.meters import collective_hooks, comm
from bench_apts.meters.collective_hooks import _HOOK_ID

COMPILER = """#!/bin/sh
for argument; do case $argument in -c) echo compiled >> {log};; esac; done
exec c++ "$@"
"""


def natively(connect, variables, function, *arguments):
    """Runs a rank's function under the native meter."""
    os.environ.update(variables)
    return function(connect, *arguments)


@pytest.fixture(scope="module")
def native_ranks(tmp_path_factory):
    """Runs ranks under the native meter, compiled by them in a cache that was empty."""
    if not torch_names.HOOKED:
        pytest.skip("this torch has no pre-hook")
    folder = tmp_path_factory.mktemp("native")
    compiler, log = folder / "c++", folder / "log"
    compiler.write_text(COMPILER.format(log=log))
    compiler.chmod(0o755)
    variables = {comm.MECHANISM: "native", "TORCH_EXTENSIONS_DIR": str(folder),
                 "CXX": str(compiler)}

    def run(function, size, *arguments):
        return run_ranks(natively, size, variables, function, *arguments, patience_s=250)

    return SimpleNamespace(run=run, log=log, variables=variables)


def name_and_calls(connect):
    w = watched(connect)
    w.dist.all_reduce(torch.ones(12))
    return w.meter.name, w.meter.snapshot()["setup"]["all_reduce"].payload_bytes


@pytest.mark.slow
def test_ranks_that_ask_together_compile_once(native_ranks):
    for _ in range(2):
        assert native_ranks.run(name_and_calls, 3) == [("c10d pre-hook (native)", 48)] * 3
        assert native_ranks.log.read_text() == "compiled\n"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "n"), [(1, 12), (2, 12), (4, 1001)])
def test_it_counts_every_collective_as_the_python_hook_does(native_ranks, size, n):
    by_hook = run_ranks(every_collective, size, n)
    by_native = native_ranks.run(every_collective, size, n)
    assert_counts_are_the_hooks(by_hook, by_native, "c10d pre-hook (native)")


@pytest.mark.slow
@pytest.mark.parametrize("make", [
    comm_ranks.ddp, comm_ranks.ddp_batchnorm, comm_ranks.power_sgd, comm_ranks.fsdp2])
def test_it_counts_a_training_as_the_python_hook_does(native_ranks, make):
    by_hook = run_ranks(training, 2, make)
    by_native = native_ranks.run(training, 2, make)
    for (counts, *_), (same, audited, (_, doubts)) in zip(by_hook, by_native, strict=True):
        assert same == counts
        assert audited.parts["train"].difference == 0
        assert doubts is None


def listed(connect):
    """Distinct calls in phases that change while native counts wait to be taken."""
    w = watched(connect)
    one = torch.ones(12)
    for phase in ("train", "eval", "train"):
        w.meter.phase = phase
        w.dist.all_reduce(one)
        w.dist.all_reduce(one.double())
        w.dist.broadcast(one, 1)
        w.dist.all_gather([one.clone(), one.clone()], one)
    w.dist.barrier()
    return w.meter.calls()


@pytest.mark.slow
def test_it_lists_the_same_distinct_calls(native_ranks):
    by_native = native_ranks.run(listed, 2)
    assert by_native == run_ranks(listed, 2)
    assert {(c.phase, c.dtype, c.root, c.calls) for c in by_native[0]
            if c.collective == "broadcast"} == {("train", "float32", 1, 2),
                                                ("eval", "float32", 1, 1)}


def removed(connect):
    w = watched(connect)
    w.dist.all_reduce(torch.ones(12))
    w.dist.group.WORLD.unregister_pre_hook(_HOOK_ID)
    w.dist.all_reduce(torch.ones(12))
    return w.meter.complaints()


@pytest.mark.slow
def test_a_removed_hook_is_noticed(native_ranks):
    for (line,) in native_ranks.run(removed, 2):
        assert "is not watched: its hook was removed" in line


@pytest.mark.slow
def test_the_environment_asks_for_it_and_the_record_says_so(native_ranks, environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench_apts", "run", "--gpus", "2", "--optimizers", "apts",
         "--seeds", "1", "--offline", "--set", "suite.budget.samples=1280", "--out", tmp_path],
        env=environment | native_ranks.variables, capture_output=True, text=True, check=False,
        timeout=250)
    assert done.returncode == 0, done.stderr
    assert_every_record_was_counted(tmp_path / "digits", "c10d pre-hook (native)")


@torch_names.hooked
def test_without_a_compiler_it_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "nowhere"))
    monkeypatch.setenv(comm.MECHANISM, "native")
    monkeypatch.setattr(
        collective_hooks, "native_module", collective_hooks.native_module.__wrapped__
    )
    with pytest.raises(UserError, match=r"cannot be compiled: .*nowhere.*install a C") as caught:
        comm.prepare()
    assert "\n" not in str(caught.value)


def test_an_old_torch_has_none(monkeypatch):
    monkeypatch.setenv(comm.MECHANISM, "native")
    monkeypatch.delattr(torch.distributed.ProcessGroup, "register_pre_hook", raising=False)
    with pytest.raises(UserError, match=r"needs torch 2\.14"):
        comm.prepare()


def test_an_unknown_way_to_count_is_refused(monkeypatch):
    monkeypatch.setenv(comm.MECHANISM, "nativ")
    with pytest.raises(UserError, match=r"nativ.*did you mean native"):
        comm.CommMeter().install()


def test_nothing_is_compiled_unless_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for asked in ("", "dispatch"):
        monkeypatch.setenv(comm.MECHANISM, asked)
        comm.prepare()
    assert not list(Path(tmp_path).iterdir())
