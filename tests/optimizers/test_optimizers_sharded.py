"""PyTorch's own sharding: the steps of adam, bytes by hand, states, frozen kernels."""

import numpy as np
import pytest
import torch
from baseline_task import Course
from torch import nn

from bench_apts.contract import Batch, World
from bench_apts.optimizers import adam, sharded
from bench_apts.plugins.replicas import local_part

PRELOAD = ["baseline_task", "bench_apts.optimizers.data_parallel",
           "bench_apts.optimizers.sharded_steppers"]
STEPS = 6
COURSES = {"adam": adam.backend, "zero-redundancy": sharded.zero_redundancy,
           "fsdp2": sharded.fsdp2}


def course(ranks, name):
    """Losses and traffic of each step; whether a fresh stepper goes on to the same losses."""
    mine = Course(COURSES[name], ranks.rank, ranks.size)
    again = Course(COURSES[name], ranks.rank, ranks.size)
    rows = []
    for number in range(STEPS):
        if number == 4:
            predict(mine)
            state = mine.stepper.state_dict()
        ranks.meter.phase = f"{name} {number}"
        loss = float(mine.step().loss)
        traffic = ranks.meter.snapshot()[ranks.meter.phase]
        rows.append((loss, {key: (t.calls, t.payload_bytes) for key, t in traffic.items()}))
        ranks.meter.phase = "between"
    for _ in range(4):
        again.batch()
    predict(again)
    again.stepper.load_state_dict(state)
    resumed = [float(again.step().loss) for _ in range(4, STEPS)]
    return rows, resumed, predict(mine)


def predict(mine):
    with torch.no_grad():
        return mine.stepper.evaluation_model()(torch.ones(2, 5)).numpy()


def kernels(ranks, name):
    """A frozen kernel, BatchNorm and micro-batches: losses, and how far the kernel has moved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    model[0].weight.requires_grad_(False)
    world = World(ranks.rank, ranks.size, torch.device("cpu"), 32, 3200, micro_batch=6)
    backend = COURSES[name]
    stepper = backend.build(model, nn.functional.cross_entropy, backend.configure({"lr": 0.01}),
                            world)
    before = local_part(model[0].weight).clone()
    generator = torch.Generator().manual_seed(ranks.rank)
    losses = []
    for _ in range(20):
        inputs = torch.randn(16, 3, 4, 4, generator=generator)
        report = stepper.step(Batch(inputs, (inputs.mean((1, 2, 3)) > 0).long()))
        losses.append(float(report.loss))
    kept = torch.equal(local_part(model[0].weight), before)
    evaluated = stepper.evaluation_model().eval()
    with torch.no_grad():
        answer = evaluated(torch.ones(1, 3, 4, 4)).numpy()
    return losses, kept, answer, report.forwards


def everything(ranks):
    return {name: (course(ranks, name), kernels(ranks, name)) for name in COURSES}


@pytest.fixture(scope="module")
def together(on_ranks):
    return on_ranks(everything, 2)


@pytest.mark.parametrize("name", ["zero-redundancy", "fsdp2"])
def test_it_takes_the_steps_of_adam(together, name):
    for rank in together:
        for part in (0, 1):
            losses = ([row[0] for row in rank[each][0][0]] if part == 0 else rank[each][1][0]
                      for each in (name, "adam"))
            np.testing.assert_allclose(next(losses), next(losses), rtol=1e-4)
        np.testing.assert_allclose(rank[name][0][2], rank["adam"][0][2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "expected"), [
    # One all-reduce of 75 gradients; each parameter from the rank that has its moments.
    ("zero-redundancy", {"all_reduce": (1, 4 * 75), "broadcast": (4, 4 * 75)}),
    # The rows of the second layer, 3, are padded to 4: 8 weights and a bias more.
    ("fsdp2", {"all_gather": (1, 4 * 84), "reduce_scatter": (1, 4 * 84)}),
])
def test_bytes_of_a_step(together, name, expected):
    for rank in together:
        sent = [traffic for _, traffic in rank[name][0][0]]
        assert sent[2:] == [expected] * (STEPS - 2)


@pytest.mark.parametrize("name", list(COURSES))
def test_a_state_fits_a_fresh_stepper(together, name):
    for rank in together:
        rows, resumed, _ = rank[name][0]
        assert [loss for loss, _ in rows[4:]] == resumed


@pytest.mark.parametrize("name", list(COURSES))
def test_frozen_kernels_stay_and_ranks_answer_alike(together, name):
    one, other = (rank[name][1] for rank in together)
    assert one[1]
    assert other[1]
    assert one[3] == 3
    np.testing.assert_array_equal(one[2], other[2])
