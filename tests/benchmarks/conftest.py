"""What the benchmarks share."""

import os

import pytest
import torch


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
