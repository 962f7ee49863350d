"""Rounds of local steps against torch's optimizers by hand; their bytes, their checkpoints."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from baseline_task import Course
from torch import nn

from bench_apts.contract import Batch, World
from bench_apts.core.errors import UserError
from bench_apts.optimizers import low_communication, muon, sgd
from bench_apts.plugins.replicas import model_fingerprints

PRELOAD = ["baseline_task", "torch.distributed.algorithms.model_averaging.averagers",
           "bench_apts.optimizers.local_rounds"]
STEPS = 24
SGD = {"lr": 0.05, "momentum": 0.9}
ADAM = {"lr": 0.01}
COURSES = {
    "averaged": (low_communication.local_sgd, SGD | {"period": 4}),
    "every step": (low_communication.local_sgd, SGD | {"period": 1, "momentum": 0.0}),
    "post-local": (low_communication.post_local_sgd, SGD | {"period": 4, "switch": 0.5}),
    "data-parallel": (sgd.backend, SGD | {"momentum": 0.0}),
    "diloco": (low_communication.diloco, ADAM | {"period": 4}),
    "plain diloco": (low_communication.diloco,
                     ADAM | {"period": 4, "outer_lr": 1.0, "outer_momentum": 0.0}),
    "local adam": (low_communication.des_loc,
                   ADAM | {"period": 4, "first_moment": 0, "second_moment": 0}),
    "des-loc": (low_communication.des_loc,
                ADAM | {"period": 2, "first_moment": 2, "second_moment": 3}),
    "streaming": (low_communication.streaming_diloco, ADAM | {"period": 4, "fragments": 2}),
    "4 bits": (low_communication.diloco, ADAM | {"period": 4, "bits": 4, "block": 8}),
    "8 bits": (low_communication.diloco, ADAM | {"period": 4, "bits": 8, "block": 8}),
    "unbiased": (low_communication.streaming_diloco, ADAM | {
        "period": 4, "fragments": 2, "bits": 8, "block": 8, "feedback": False}),
    "muloco": (low_communication.muloco, ADAM | {"period": 4}),
    "snoo": (low_communication.snoo, ADAM | {"period": 4}),
}


@dataclass
class Row:
    """What is seen after a step."""

    trained: np.ndarray
    evaluated: np.ndarray
    agreed: bool
    sent: dict


def course(ranks, name):
    """The parameters' number and what is seen after each step."""
    backend, pinned = COURSES[name]
    mine = Course(backend, ranks.rank, ranks.size, steps=STEPS, **pinned)
    rows = []
    for number in range(STEPS):
        ranks.meter.phase = f"{name} {number}"
        report = mine.step()
        traffic = ranks.meter.snapshot().get(ranks.meter.phase, {})
        ranks.meter.phase = "between"
        rows.append(Row(mine.weights(), mine.evaluated(), report.agreed,
                        {key: (t.calls, t.payload_bytes) for key, t in traffic.items()}))
    return mine.n, rows


def everything(ranks):
    return {"courses": {name: course(ranks, name) for name in COURSES},
            "torch": {"averaged": with_torch(ranks, 0), "post-local": with_torch(ranks, 12)},
            "resumed": {name: resumed(ranks, *COURSES[name])
                        for name in ("diloco", "des-loc", "streaming", "snoo", "post-local",
                                      "4 bits", "unbiased", "muloco")},
            "normalised": normalised(ranks)}


def with_torch(ranks, warmup):
    """Weights after each step of torch's own post-local SGD under DistributedDataParallel."""
    from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
        PostLocalSGDState,
        post_localSGD_hook,
    )
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    mine = Course(sgd.backend, ranks.rank, ranks.size)
    model = mine.stepper.model
    if ranks.size > 1:
        # Without a subgroup it would average over the node, which is all of these ranks.
        model.register_comm_hook(PostLocalSGDState(
            None, None, warmup, post_local_gradient_allreduce=False), post_localSGD_hook)
    averager = PeriodicModelAverager(period=4, warmup_steps=warmup)
    averager.step = 1  # it averages after the first step of a period, and we after the last
    optimizer = PostLocalSGDOptimizer(torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True), averager)
    rows = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.05 * cosine(step)
        inputs, targets = mine.batch()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        rows.append(mine.weights())
    return rows


def resumed(ranks, backend, pinned):
    """Whether a state taken amid a round, and one taken while evaluated, lead to the same end."""
    whole = Course(backend, ranks.rank, ranks.size, steps=STEPS, **pinned)
    states = []
    for number in range(STEPS):
        if number in (5, 8):
            whole.stepper.evaluation_model()
            states.append((number, whole.stepper.state_dict()))
        whole.step()
    ends = []
    for number, state in states:
        again = Course(backend, ranks.rank, ranks.size, steps=STEPS, **pinned)
        for _ in range(number):
            again.batch()
        again.stepper.load_state_dict(state)
        for _ in range(number, STEPS):
            again.step()
        ends.append(np.array_equal(again.weights(), whole.weights()))
    return ends


def normalised(ranks):
    """Fingerprints of parameters and buffers wherever ranks agree, with BatchNorm."""
    found = {}
    for name, backend in (("local", low_communication.local_sgd),
                          ("streaming", low_communication.streaming_diloco),
                          ("snoo", low_communication.snoo)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        world = World(ranks.rank, ranks.size, torch.device("cpu"), 32, 320, micro_batch=5)
        stepper = backend.build(model, nn.functional.cross_entropy,
                                backend.configure({"period": 4}), world)
        torch.manual_seed(1 + ranks.rank)
        prints = []
        for number in range(10):
            ranks.meter.phase = f"normalised {name} {number}"
            report = stepper.step(Batch(torch.randn(16, 5), torch.randint(3, (16,))))
            sent = ranks.meter.snapshot().get(ranks.meter.phase, {})
            if report.agreed:
                prints.append((*model_fingerprints(stepper.evaluation_model()), report.forwards,
                               report.samples, sum(t.payload_bytes for t in sent.values())))
        found[name] = prints
    return found


@pytest.fixture(scope="module")
def together(on_ranks):
    return on_ranks(everything, 2)


@pytest.fixture(scope="module")
def courses(together):
    return together[0]["courses"]


def cosine(step):
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


# --- the same by hand ---------------------------------------------------------------------------


class Replicas:
    """Ranks in this process: copies of the model, each with its inner optimizer of torch."""

    def __init__(self, make, size=2):
        # Their steppers, which would need no process group until they meet, are not used.
        self.courses = [Course(low_communication.local_sgd, rank, size) for rank in range(size)]
        self.models = [each.model for each in self.courses]
        self.optimizers = [make(model.parameters()) for model in self.models]

    def step(self, number, together=False):
        for mine, optimizer in zip(self.courses, self.optimizers, strict=True):
            optimizer.zero_grad()
            inputs, targets = mine.batch()
            nn.functional.cross_entropy(mine.model(inputs), targets).backward()
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * cosine(number)
        if together:
            average([[p.grad for p in model.parameters()] for model in self.models])
        for optimizer in self.optimizers:
            optimizer.step()

    def vectors(self):
        return [nn.utils.parameters_to_vector(m.parameters()).detach() for m in self.models]

    def write(self, vector, where=slice(None)):
        for model, mine in zip(self.models, self.vectors(), strict=True):
            mine[where] = vector[where]
            nn.utils.vector_to_parameters(mine, model.parameters())

    def average_moments(self, name):
        average([[state[name] for state in optimizer.state.values()]
                 for optimizer in self.optimizers])


def average(copies):
    for tensors in zip(*copies, strict=True):
        mean = torch.stack(tensors).mean(dim=0)
        for tensor in tensors:
            tensor.copy_(mean)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)


def outer(replicas):
    """DiLoCo's outer optimizer: torch's SGD on the weights of all ranks as one vector."""
    weights = nn.Parameter(replicas.vectors()[0].clone())
    return weights, torch.optim.SGD([weights], lr=0.7, momentum=0.9, nesterov=True)


def same(rows, expected, what="trained"):
    for row, weights in zip(rows, expected, strict=True):
        np.testing.assert_allclose(getattr(row, what), weights.numpy(), rtol=1e-4, atol=1e-6)


def test_diloco_moves_by_torchs_sgd_along_the_mean_displacement(courses):
    replicas, ends = Replicas(adamw), []
    weights, optimizer = outer(replicas)
    for number in range(STEPS):
        replicas.step(number)
        if number % 4 == 3:
            weights.grad = weights.detach() - torch.stack(replicas.vectors()).mean(0)
            optimizer.step()
            replicas.write(weights.detach())
            ends.append(weights.detach().clone())
    same(courses["diloco"][1][3::4], ends)
    assert [row.agreed for row in courses["diloco"][1]] == [False, False, False, True] * 6


def test_fragments_move_in_turn_and_the_outer_weights_are_evaluated(courses):
    n, rows = courses["streaming"]
    replicas, trained, evaluated = Replicas(adamw), [], []
    weights = replicas.vectors()[0]
    parts = {1: slice(0, n // 2), 3: slice(n // 2, n)}
    momentum = torch.zeros(n)
    for number in range(STEPS):
        replicas.step(number)
        where = slice(None) if number == STEPS - 1 else parts.get(number % 4)
        if where:
            moved = (torch.stack(replicas.vectors()).mean(0) - weights)[where]
            momentum[where] = 0.9 * momentum[where] + moved
            weights[where] += 0.7 * (moved + 0.9 * momentum[where])
            replicas.write(weights, where)
        trained.append(replicas.vectors()[0])
        evaluated.append(weights.clone())
    same(rows, evaluated, "evaluated")
    same(rows[:1] + rows[2:], trained[:1] + trained[2:])
    assert [row.agreed for row in rows] == [False, False, False, True] * 6


def test_snoo_takes_outer_steps_on_data_parallel_ones(courses):
    replicas, trained, evaluated = Replicas(adamw), [], []
    weights = nn.Parameter(replicas.vectors()[0].clone())
    optimizer = torch.optim.SGD([weights], lr=0.68, momentum=0.37, nesterov=True)
    for number in range(STEPS):
        replicas.step(number, together=True)
        if number % 4 == 3:
            weights.grad = weights.detach() - replicas.vectors()[0]
            optimizer.step()
            replicas.write(weights.detach())
        trained.append(replicas.vectors()[0])
        evaluated.append(weights.detach().clone())
    same(courses["snoo"][1], trained)
    same(courses["snoo"][1], evaluated, "evaluated")
    assert all(row.agreed for row in courses["snoo"][1])


def test_des_loc_averages_moments_at_periods_of_their_own(courses):
    replicas, ends = Replicas(adamw), []
    for number in range(STEPS):
        replicas.step(number)
        if number % 2 == 1:
            replicas.write(torch.stack(replicas.vectors()).mean(0))
            ends.append(replicas.vectors()[0])
        if number % 4 == 3:
            replicas.average_moments("exp_avg")
        if number % 6 == 5:
            replicas.average_moments("exp_avg_sq")
    same(courses["des-loc"][1][1::2], ends)


def test_averaging_every_step_of_plain_sgd_is_data_parallel_sgd(courses):
    for ours, theirs in zip(courses["every step"][1], courses["data-parallel"][1], strict=True):
        np.testing.assert_allclose(ours.trained, theirs.trained, rtol=1e-4, atol=1e-6)


def test_an_outer_step_of_length_1_without_momentum_is_plain_averaging(courses):
    for ours, theirs in zip(courses["plain diloco"][1], courses["local adam"][1], strict=True):
        assert np.array_equal(ours.trained, theirs.trained)


@pytest.mark.parametrize("name", ["averaged", "post-local"])
def test_torchs_post_local_sgd_takes_the_same_steps(together, name):
    for rank in together:
        for row, theirs in zip(rank["courses"][name][1], rank["torch"][name], strict=True):
            np.testing.assert_allclose(row.trained, theirs, rtol=1e-4, atol=1e-6)


def test_ranks_hold_the_same_weights_where_they_agree(together):
    one, other = (rank["courses"] for rank in together)
    for name, (_, rows) in one.items():
        for mine, theirs in zip(rows, other[name][1], strict=True):
            assert mine.agreed == theirs.agreed
            if mine.agreed:
                assert np.array_equal(mine.evaluated, theirs.evaluated)


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "calls"), [
    ("averaged", [0, 0, 0, 1] * 6),
    ("every step", [1] * STEPS),
    ("post-local", [1] * 12 + [0, 0, 0, 1] * 3),
    ("diloco", [0, 0, 0, 1] * 6),
    ("snoo", [1] * STEPS),
    # Weights every 2 steps, first moments every 4, second moments every 6.
    ("des-loc", [0, 1, 0, 2, 0, 2, 0, 2, 0, 1, 0, 3] * 2),
])
def test_each_all_reduce_carries_n_floats(courses, name, calls):
    n, rows = courses[name]
    assert [row.sent for row in rows] == [
        {"all_reduce": (count, 4 * n * count)} if count else {} for count in calls]


def test_fragments_carry_their_share_and_all_go_in_the_end(courses):
    n, rows = courses["streaming"]
    first, second = ({"all_reduce": (1, 4 * size)} for size in (n // 2, n - n // 2))
    assert [row.sent for row in rows[:-1]] == ([{}, first, {}, second] * 6)[:-1]
    assert rows[-1].sent == {"all_reduce": (2, 4 * n)}


@pytest.mark.parametrize(("name", "bits"), [("4 bits", 4), ("8 bits", 8)])
def test_fewer_bits_cross_the_wire_packed_with_their_steps(courses, name, bits):
    n, rows = courses[name]
    chunk = 64
    assert n == 75
    message = 2 * (chunk * bits // 8 + 4 * chunk // 8)
    assert [row.sent for row in rows] == [
        {}, {}, {}, {"all_to_all": (1, message), "all_gather": (1, message)}] * 6


def test_8_bits_with_feedback_end_near_32(courses):
    start, end, near, far = (courses[name][1][number].trained for name, number in (
        ("diloco", 0), ("diloco", -1), ("8 bits", -1), ("4 bits", -1)))
    moved = np.linalg.norm(end - start)
    assert np.linalg.norm(near - end) < 0.03 * moved
    assert np.linalg.norm(near - end) < np.linalg.norm(far - end) < 0.3 * moved


def test_muloco_moves_hidden_matrices_by_muon(courses):
    n, rows = courses["muloco"]
    assert [row.sent for row in rows] == [{}, {}, {}, {"all_reduce": (1, 4 * n)}] * 6
    assert np.abs(rows[-1].trained - courses["diloco"][1][-1].trained).max() > 1e-3


# --- the contract -------------------------------------------------------------------------------


def test_a_state_amid_a_round_leads_to_the_same_bits(together):
    for rank in together:
        assert rank["resumed"] == {name: [True, True] for name in rank["resumed"]}


def test_batch_norm_statistics_are_averaged_along_and_micro_batches_counted(together):
    one, other = (rank["normalised"] for rank in together)
    assert one == other
    n, floats = 5 * 8 + 8 + 16 + 8 * 3 + 3, 16
    assert [row[2:] for row in one["local"]] == [(4, 16, 4 * (n + floats))] * 3
    assert len(one["streaming"]) == 3
    assert len(one["snoo"]) == 10


def test_alone_nothing_is_sent_and_rounds_are_taken_all_the_same(on_ranks):
    (rank,) = on_ranks(alone, 1)
    for _, rows in rank.values():
        assert all(row.sent == {} for row in rows)
        assert [row.agreed for row in rows][3::4] == [True] * 6


def alone(ranks):
    return {name: course(ranks, name) for name in ("averaged", "diloco", "streaming", "snoo")}


def test_alone_muloco_without_outer_steps_is_muon(on_ranks):
    ((inner, muon),) = on_ranks(orthogonalised, 1)
    np.testing.assert_allclose(inner, muon, rtol=1e-4, atol=1e-6)


def orthogonalised(ranks):
    found = []
    for backend, pinned in ((low_communication.muloco, {"outer_lr": 1.0, "outer_momentum": 0.0}),
                            (muon.backend, {})):
        mine = Course(backend, lr=0.01, **pinned)
        for _ in range(10):
            mine.step()
        found.append(mine.weights())
    return found


def test_more_fragments_than_steps_are_refused():
    with pytest.raises(UserError, match="fragments=5"):
        Course(low_communication.streaming_diloco, period=4, fragments=5)


def test_one_worker_diloco_is_frozen_at_the_published_values():
    values = low_communication.one_worker.configure({})
    assert (values["lr"], values["period"], values["outer_lr"], values["outer_momentum"]) == (
        0.000955, 75, 0.3006, 0.7675)
    assert not low_communication.one_worker.searched()
