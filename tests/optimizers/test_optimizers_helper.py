"""The tests' own ranks: results in order, failures with their traceback, no hanging."""

import os
import time

import pytest
import torch
import torch.distributed as dist


def total(ranks, factor):
    value = torch.tensor([float(ranks.rank)])
    dist.all_reduce(value)
    return ranks.rank, factor * value.item(), os.environ["GLOO_SOCKET_IFNAME"]


def one_fails(ranks):
    if ranks.rank == 1:
        raise ZeroDivisionError("on purpose")
    dist.barrier()


def one_dies(ranks):
    if ranks.rank == 1:
        os._exit(3)


def sleeps(ranks):
    time.sleep(60)


def test_results_come_in_the_order_of_the_ranks(on_ranks):
    assert on_ranks(total, 3, 2.0) == [(rank, 6.0, "lo") for rank in range(3)]


def test_a_failing_rank_fails_the_test_with_its_traceback(on_ranks):
    with pytest.raises(pytest.fail.Exception, match=r"rank 1:\n(.|\n)*on purpose"):
        on_ranks(one_fails, 2)
    with pytest.raises(pytest.fail.Exception, match="exit code 3"):
        on_ranks(one_dies, 2)


def test_a_hanging_rank_is_ended(on_ranks):
    with pytest.raises(pytest.fail.Exception, match="still running"):
        on_ranks(sleeps, 1, timeout=2.0)
