"""The host waits for the device once per outer iteration of the published APTS."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench_apts.optimizers.apts import APTS
from bench_apts.optimizers.presets import SOLVERS

WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique"}
"""Operations whose result the host must know; ``item``, ``bool`` and ``float`` are the first."""

COPYING = ("tolist", "cpu", "numpy", "__array__")
"""Methods that take a tensor off its device, which on the CPU no operation tells."""


class Waits(TorchDispatchMode):
    """Counts, while it is active, how often the host would wait for a device."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WAITING or (name == "index" and any(
                i is not None and i.dtype == torch.bool for i in args[1])):
            self.calls.append(name)
        return function(*args, **(kwargs or {}))

    def __enter__(self):
        self.originals = {name: getattr(torch.Tensor, name) for name in COPYING}
        for name, original in self.originals.items():
            def spy(tensor, *args, name=name, original=original, **kwargs):
                self.calls.append(name)
                return original(tensor, *args, **kwargs)

            setattr(torch.Tensor, name, spy)
        return super().__enter__()

    def __exit__(self, *error):
        for name, original in self.originals.items():
            setattr(torch.Tensor, name, original)
        return super().__exit__(*error)


@pytest.mark.parametrize("wait", [
    lambda x: x.tolist(), lambda x: x[0].item(), lambda x: float(x[0]), lambda x: bool(x[0] > 0),
    lambda x: x.cpu(), lambda x: x.numpy(), lambda x: torch.equal(x, x), lambda x: x[x > 0],
    lambda x: x.nonzero()])
def test_the_counter_sees_every_wait(wait):
    with Waits() as waits:
        wait(torch.ones(2))
    assert len(waits.calls) >= 1
    with Waits() as waits:
        torch.where(torch.ones(2) > 0, torch.ones(2), torch.zeros(2)).lerp_(torch.ones(2), 0.5)
    assert waits.calls == []


def trained(dtype=torch.float64, **settings):
    """An optimizer with a closure on which some local steps, and some others, are rejected."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)
    inputs, targets = torch.randn(32, 5, dtype=dtype), torch.randint(3, (32,))
    optimizer = APTS(model.parameters(), buffers=model.buffers(), **{"radius": 0.5} | settings)

    def closure(backward):
        losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none")
        if backward:
            losses.mean().backward()
        return losses.detach()

    return optimizer, closure


def counted(ranks, settings):
    """What the host waited for in each of some outer iterations, and what was decided."""
    optimizer, closure = trained(**settings)
    optimizer.step(closure)  # the first one tells how many samples there are
    results = []
    for _ in range(8):
        with Waits() as waits:
            optimizer.step(closure)
        results.append((waits.calls, [v for k, v in optimizer.last.items() if "accepted" in k]))
    return results


@pytest.mark.parametrize("settings", [
    {}, {"solver": "tr-adam", "global_solver": "tr-adam"}, {"global_solver": "l-sr1"},
    {"solver": "l-sr1"}, {"global_pass": False}, {"window": 4},
    {"local_iterations": 0}, {"capped": False, "consistency": "value"}, {"norm": "linf"},
    {"dtype": torch.float32}, {"dtype": torch.bfloat16},
], ids=str)
def test_one_wait_decides_all(settings):
    results = counted(None, settings)
    assert [calls for calls, _ in results] == [["tolist"]] * len(results)


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_ranks_wait_no_more_than_one(on_ranks, solver):
    settings = {"solver": solver, "global_solver": solver, "radius": 2.0}
    for results in on_ranks(counted, 2, settings):
        assert [calls for calls, _ in results] == [["tolist"]] * len(results)
        if solver == "first-order":  # both answers were given
            assert {d for _, decisions in results for d in decisions} == {True, False}


def test_every_trial_that_may_be_retried_costs_a_wait():
    optimizer, closure = trained(retries=3, radius=1e-3)
    with Waits() as waits:
        optimizer.step(closure)  # so near by that no trial is refused
    assert optimizer.last["forwards"] == 8
    assert sorted(waits.calls) == ["_local_scalar_dense"] * 6 + ["tolist"]
