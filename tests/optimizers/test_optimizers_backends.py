"""What steps of some backends pass, send and report, number by number, on the digits.

What holds for every backend is tested in tests/trial/test_conformance_examined.py.
"""

import functools
import importlib.util
import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from bench_apts.contract import Batch, World
from bench_apts.plugins import registry

ZERO = ["zero1", "zero2", "zero3", "zero-offload"]
TOGETHER = ("adam", "apts", "apts-paper", "napts", "sgd", "tr")  # DeepSpeed: one per process
SIZES = (1, 2)
STEPS, FEW_STEPS, WARMUP, BATCH = 30, 5, 3, 64
SHAPES = [(64, 64), (64,), (32, 64), (32,), (10, 32), (10,)]
N = sum(math.prod(shape) for shape in SHAPES)  # 6,570 parameters
P = 4 * N

# Every fork would import them otherwise, for seconds.
PRELOAD = ["sklearn.datasets", "bench_apts.plugins.registry"]
PRELOAD += ["deepspeed"] if importlib.util.find_spec("deepspeed") else []


def digits():
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    return torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(targets)


def batches(rank, size):
    inputs, targets = digits()
    share = BATCH // size
    for step in itertools.count():
        # Epoch after epoch in the same order, without the last incomplete batch.
        first = step * BATCH % (len(targets) - BATCH) + rank * share
        yield Batch(inputs[first : first + share], targets[first : first + share])


def train(ranks, names, steps):
    """Trains with each backend for a few steps, after three steps that were undone."""
    return {name: train_one(ranks, name, steps) for name in names}


def train_one(ranks, name, steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
                          nn.Linear(32, 10))
    backend = registry.optimizer(name).backend
    world = World(ranks.rank, ranks.size, torch.device("cpu"), BATCH, STEPS * BATCH)
    stepper = backend.build(model, nn.functional.cross_entropy, backend.configure({}), world)
    # DDP rebuilds its buckets in the second step, ZeRO-3 checks its trace.
    ranks.meter.phase = "warmup"
    state = stepper.state_dict()
    for _, batch in zip(range(WARMUP), batches(ranks.rank, ranks.size), strict=False):
        stepper.step(batch)
    stepper.load_state_dict(state)
    # As the harness does; it is here that ZeRO-3 gathers what the loading has partitioned.
    ranks.meter.phase = "eval"
    predict(stepper)
    reports, traffic = [], []
    for number, batch in enumerate(batches(ranks.rank, ranks.size), 1):
        ranks.meter.phase = f"{name} {number}"
        report = stepper.step(batch)
        reports.append({
            "loss": float(report.loss), "forwards": report.forwards,
            "backwards": report.backwards, "agreed": report.agreed,
            "diagnostics": {key: float(value) for key, value in report.diagnostics.items()}})
        traffic.append({
            key: (t.calls, t.payload_bytes, t.ideal_bytes)
            for key, t in ranks.meter.snapshot().get(ranks.meter.phase, {}).items()})
        if number >= steps and report.agreed:
            break
    return {"reports": reports, "traffic": traffic,
            "losses": [report["loss"] for report in reports]}


def predict(stepper):
    model = stepper.evaluation_model()
    model.eval()
    with torch.no_grad():
        model(digits()[0][:50])
    model.train()


@pytest.fixture(scope="module")
def trained(on_ranks):
    """``trained(name, size)``: what each rank tells; few runs serve all tests."""

    @functools.cache
    def run(names, size):
        return on_ranks(train, size, names, STEPS if size in SIZES else FEW_STEPS)

    def of(name, size):
        reason = registry.optimizer(name).backend.unavailable()
        if reason:
            pytest.skip(f"{name}: {reason}")
        names = TOGETHER if name in TOGETHER else (name,)
        return [rank[name] for rank in run(names, size)]

    return of


PASSES = {
    "sgd": (1, 1), "adam": (1, 1), "tr": (2, 1), **dict.fromkeys(ZERO, (1, 1)),
    **dict.fromkeys(("apts-paper", "napts"), (8, 6)),  # H + 3 and H + 1 with H = 5
}


@pytest.mark.parametrize(("name", "size"), [
    (name, size) for name in PASSES for size in SIZES if size > 1 or name not in ZERO])
def test_passes(trained, name, size):
    passes = PASSES[name]
    for rank in trained(name, size):
        assert {(r["forwards"], r["backwards"]) for r in rank["reports"]} == {passes}


@pytest.mark.parametrize("size", SIZES)
def test_apts_pays_one_more_forward_pass_where_it_judges(trained, size):
    for rank in trained("apts", size):
        assert {report["backwards"] for report in rank["reports"]} == {1}
        lengths, tests, forwards, steps = [], 0, 0, 0
        for report in rank["reports"]:
            forwards += report["forwards"]
            steps += 1
            if report["agreed"]:  # the end of a round, whose first minibatch may have judged
                judged = "actual_reduction" in report["diagnostics"]
                assert forwards == steps + judged
                lengths.append(steps)
                tests += judged
                forwards = steps = 0
        assert lengths == [1] * 16 + [2] * 7
        assert tests > 0


@pytest.mark.parametrize("name", ["apts-paper", "napts", "tr"])
def test_trust_region_methods_report_diagnostics(trained, name):
    for report in trained(name, 2)[0]["reports"]:
        results = report["diagnostics"]
        assert {key for key in results if not key.startswith("global_")} == {
            "radius", "rho", "accepted", "predicted_reduction", "actual_reduction", "at_bound",
            "judged", "local_passes"}
        assert ("global_accepted" in results) == (name != "tr")
        assert results["at_bound"] == (results["radius"] in (1e-3, 4))
        assert results["judged"] == 1
        assert results["accepted"] in (0, 1)


@pytest.mark.parametrize(("name", "expected"), [
    # H local iterations, the last without a gradient; APTS-S steps alone in rounds of two.
    ("apts-paper", lambda number: 9 * number), ("tr", lambda number: 0),
    ("apts", lambda number: 2 * max(0, number - 16))])
def test_local_passes_are_those_of_steps_taken_alone(trained, name, expected):
    for rank in trained(name, 2):
        assert [report["diagnostics"]["local_passes"] for report in rank["reports"]] == [
            expected(number) for number in range(1, len(rank["reports"]) + 1)]


def test_ordinary_backends_are_short():
    for name in ("sgd", "adam"):
        build = registry.optimizer(name).backend.build
        with open(inspect.getfile(build), encoding="utf-8") as file:
            assert len(file.readlines()) <= 65, name


@pytest.mark.parametrize("name", ZERO)
def test_zero_takes_the_steps_of_adam(trained, name):
    for zero, adam in zip(trained(name, 2), trained("adam", 2), strict=True):
        np.testing.assert_allclose(zero["losses"], adam["losses"], rtol=1e-5)


# --- bytes --------------------------------------------------------------------------------------


def gradient_sum(size):
    """One all-reduce of the gradient: 2fP with f = (N − 1)/N."""
    return {"all_reduce": (1, P, 2 * (size - 1) / size * P)}


def zero_1_and_2(size):
    """All-reduce of the gradient and of one flag (4 bytes); all-gather of the parameters.

    The flat parameters are padded to a multiple of 2N (DeepSpeed's alignment of partitions).
    """
    share = (size - 1) / size
    padded = 4 * 2 * size * math.ceil(N / (2 * size))
    return {"all_reduce": (2, P + 4, 2 * share * (P + 4)),
            "all_gather": (1, padded, share * padded)}


def zero_3(size):
    """Reduce-scatter of gradients, all-gather of parameters, each padded to a multiple of N.

    All tensors here are below DeepSpeed's persistence threshold (100,000 elements), so they are
    gathered one by one, after the update, and kept. One all-reduce of 8 bytes.
    """
    share = (size - 1) / size
    padded = 4 * sum(size * math.ceil(math.prod(shape) / size) for shape in SHAPES)
    return {"all_reduce": (1, 8, 2 * share * 8),
            "all_gather": (len(SHAPES), padded, share * padded),
            "reduce_scatter": (1, padded, share * padded)}


def published_apts(size):
    """Four all-reduces of 3n + 4 floats together."""
    floats = 3 * N + 4
    return {"all_reduce": (4, 4 * floats, 2 * (size - 1) / size * 4 * floats)}


def trust_region(size):
    """Gradient and loss in one all-reduce, the trial loss in another."""
    floats = N + 2
    return {"all_reduce": (2, 4 * floats, 2 * (size - 1) / size * 4 * floats)}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("name", "expected"), [
    ("sgd", gradient_sum), ("adam", gradient_sum), ("zero1", zero_1_and_2),
    ("zero2", zero_1_and_2), ("zero-offload", zero_1_and_2), ("zero3", zero_3),
    ("apts-paper", published_apts), ("napts", published_apts), ("tr", trust_region),
])
def test_bytes_per_step_are_exactly_these(trained, name, expected, size):
    for rank in trained(name, size):
        for step in rank["traffic"]:
            assert step == expected(size)


@pytest.mark.parametrize("size", [2, 4])
def test_apts_sends_bytes_and_then_half_bytes_and_six_floats_where_it_judges(trained, size):
    formula, share = registry.optimizer("apts").backend.traffic, (size - 1) / size
    for rank in trained("apts", size):
        for report, step in zip(rank["reports"], rank["traffic"], strict=True):
            alone = report["diagnostics"]["local_passes"]
            payloads = formula.payloads if alone else formula.first_payloads
            sent = dict(payloads(N, size))
            sent["all_gather"] += size * (12 * ("overshoot" in report["diagnostics"])
                                          + 24 * ("actual_reduction" in report["diagnostics"]))
            assert step == ({name: (1, payload, share * payload)
                             for name, payload in sent.items()} if report["agreed"] else {})
