"""What the benchmarks share."""

import contextlib
import os

import pytest
import torch
import warm_processes


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kept():
    """Give the environment back, which a launcher changes for its processes."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def cold_servers(request):
    """Where something is measured, it is what users wait for: fork servers that import torch."""
    with contextlib.nullcontext() if request.config.getoption("benchmark_disable") else (
            warm_processes.suspended()):
        yield
