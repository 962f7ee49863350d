"""The meter for a torch without pre-hooks: the same counts, by overriding c10d's operators."""

import sys

import comm_ranks
import pytest
import torch_names
import warm_processes
from comm_ranks import (
    assert_counts_are_the_hooks,
    assert_every_record_was_counted,
    every_collective,
    training,
    uneven,
)
from harness_ranks import run_ranks

from bench_apts.core.errors import UserError
from bench_apts.meters.comm import MECHANISM, CollectiveCounter


@torch_names.hooked
@pytest.mark.parametrize(("size", "n"), [(2, 12), (4, 1001)])
def test_it_counts_every_collective_as_the_hook_does(size, n):
    by_hook = run_ranks(every_collective, size, n)
    by_dispatch = run_ranks(every_collective, size, n, True)
    assert_counts_are_the_hooks(by_hook, by_dispatch, "c10d dispatcher")


@torch_names.hooked
@pytest.mark.parametrize("make", [
    comm_ranks.ddp, comm_ranks.ddp_batchnorm, comm_ranks.power_sgd, comm_ranks.fsdp2])
def test_it_counts_a_training_as_the_hook_does(make):
    by_hook = run_ranks(training, 2, make)
    by_dispatch = run_ranks(training, 2, make, (), True)
    for (counts, *_), (same, audited, (_, doubts)) in zip(by_hook, by_dispatch, strict=True):
        assert same == counts
        assert audited.parts["train"].difference == 0
        assert doubts is None


def without_the_hook(connect):
    import torch

    if torch_names.HOOKED:
        del torch.distributed.ProcessGroup.register_pre_hook
    w = comm_ranks.watched(connect)
    w.dist.all_reduce(torch.ones(12))
    return w.meter.name, w.meter.snapshot()["setup"]["all_reduce"].payload_bytes


def test_it_serves_a_torch_that_has_no_hook():
    assert run_ranks(without_the_hook, 2) == [("c10d dispatcher", 48)] * 2


def test_it_knows_the_splits_of_an_uneven_all_to_all():
    for audited in run_ranks(uneven, 3, True):
        assert audited.parts["train"].difference == 0


def test_the_environment_forces_it_and_the_record_says_so(environment, tmp_path):
    done = warm_processes.run(
        [sys.executable, "-m", "bench_apts", "run", "--gpus", "2", "--optimizers", "apts",
         "--seeds", "1", "--offline", "--no-report", "--set", "suite.budget.samples=1280",
         "--out", tmp_path], env=environment | {"BENCH_APTS_COMM_METER": "dispatch"})
    assert done.returncode == 0, done.stderr
    assert_every_record_was_counted(tmp_path / "digits", "c10d dispatcher")


def test_an_unknown_way_to_count_is_refused(monkeypatch):
    monkeypatch.setenv(MECHANISM, "dispatsh")
    with pytest.raises(UserError, match=r"dispatsh.*did you mean dispatch"):
        CollectiveCounter().install()
