"""Peak memory, and bytes of the tensors that a method holds: by hand for optimizers of torch."""

import functools
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from bench_apts.core import gpu_devices
from bench_apts.meters import memory_use
from bench_apts.meters.memory_use import held_tensor_bytes

MIB = 2**20
WEIGHTS = 4 * (10 * 3 + 3)
"""Bytes of the model below."""

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(),
                           reason="the peak cannot be reset on this system")


@linux
def test_the_peak_holds_what_was_freed_until_it_is_reset():
    memory_use.reset_peak("cpu")
    before = memory_use.peak_bytes("cpu")
    block = np.ones(256 * MIB, dtype=np.uint8)
    peak = memory_use.peak_bytes("cpu")
    assert peak - before > 200 * MIB
    del block
    assert memory_use.peak_bytes("cpu") > peak - 16 * MIB  # the kernel counts in batches
    memory_use.reset_peak("cpu")
    assert memory_use.peak_bytes("cpu") < peak - 200 * MIB


@linux
def test_a_read_only_proc_is_no_reason_to_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_use, "_CLEAR_REFS", tmp_path)  # cannot be written: it is a folder
    before = memory_use.peak_bytes("cpu")
    memory_use.reset_peak("cpu")
    assert memory_use.peak_bytes("cpu") >= before


def test_without_proc_the_peak_since_the_start_is_returned(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_use, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory_use, "_CLEAR_REFS", tmp_path / "none")
    memory_use.reset_peak("cpu")
    assert memory_use.peak_bytes("cpu") > 10 * MIB


@pytest.mark.gpu
def test_the_device_reports_its_own_peak():
    if not gpu_devices.gpu_count():
        pytest.skip("no CUDA device")
    block = torch.ones(64 * MIB, dtype=torch.uint8, device="cuda")
    del block
    assert memory_use.peak_bytes("cuda") >= 64 * MIB
    memory_use.reset_peak("cuda")
    assert memory_use.peak_bytes("cuda") < 64 * MIB


@pytest.fixture
def model():
    return torch.nn.Linear(10, 3)


def trained(model, optimizer):
    model(torch.ones(2, 10)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(("make", "copies", "more"), [
    (functools.partial(torch.optim.SGD, lr=0.1), 2, 0),  # weights and gradients
    (functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), 3, 0),
    (functools.partial(torch.optim.Adam, lr=0.1), 4, 2 * 4),  # a float of steps for each tensor
])
def test_weights_gradients_and_state_by_hand(model, make, copies, more):
    assert held_tensor_bytes([model]) == WEIGHTS
    optimizer = trained(model, make(model.parameters()))
    assert held_tensor_bytes([model, optimizer]) == copies * WEIGHTS + more


def test_buffers_count_and_views_count_once():
    model = torch.nn.BatchNorm1d(4)  # weight, bias, mean, variance, and a count of 8 bytes
    assert held_tensor_bytes([model]) == 4 * 4 * 4 + 8
    flat = torch.zeros(100)
    assert held_tensor_bytes([[flat[:10], flat[50:].view(5, 10), flat]]) == 400


def test_what_closures_partials_and_attributes_hold_counts(model):
    kept, given = torch.zeros(7), torch.zeros(5)

    def loss():
        return kept.sum()

    stepper = types.SimpleNamespace(loss=loss, other=functools.partial(torch.add, given), me=None)
    stepper.me = stepper  # a circle
    model.weight.shadow = torch.zeros(3)  # as ZeRO keeps a rank's part of a parameter
    assert held_tensor_bytes([stepper, model]) == WEIGHTS + 4 * (7 + 5 + 3)


def test_the_data_is_apart(model):
    data = torch.zeros(1_000)
    stepper = types.SimpleNamespace(model=model, batch=data[:10])
    assert held_tensor_bytes([stepper], [data]) == WEIGHTS
    assert held_tensor_bytes([stepper], [[data]]) == WEIGHTS


def test_tensors_of_the_module_around_a_function_are_not_its_own():
    assert held_tensor_bytes([_uses_a_global]) == 0
    assert _uses_a_global() == 12


_GLOBAL = torch.ones(12)


def _uses_a_global():
    return int(_GLOBAL.sum())
