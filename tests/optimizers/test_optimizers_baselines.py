"""The baselines: exact bytes, any number of ranks, states taken back, missing packages."""

import io
import sys

import numpy as np
import pytest
import torch
from baseline_task import Course, cnn, mlp

from bench_apts.optimizers import adam, prodigy, rivals, schedule_free
from bench_apts.plugins import registry
from bench_apts.trial.warmup import plain_state

BACKENDS = {name: registry.optimizer(name).backend for name in (
    "adam-default", "nadamw", "nadamw-2026", "nadamw-list", "nadamw-tuned", "schedule-free",
    "schedule-free-warmup", "schedule-free-algoperf", "prodigy", "d-adapt", "dog", "momo", "muon",
    "muon-frozen", "lion", "lion-frozen", "ademamix", "ademamix-frozen", "soap", "adafactor")}
RELATED = ("nadamw-2026", "nadamw-list", "nadamw-tuned", "schedule-free-warmup",
           "schedule-free-algoperf", "muon-frozen", "lion-frozen", "ademamix-frozen")
"""Another one's code at other numbers."""
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in RELATED else name
         for name in BACKENDS]
NETWORKS = {"mlp": (mlp, torch.float32), "cnn": (cnn, torch.float64)}
# Muon iterates in bfloat16. SOAP's first matrices have not full rank, and which eigenvectors it
# finds depends on rounding, so that it takes other steps of equal lengths.
COARSE = {"muon": 2e-3, "muon-frozen": 2e-3, "soap": 2e-2}
PRELOAD = ["baseline_task", "pytorch_optimizer", "bench_apts.plugins.registry"]
STEPS, MORE = 6, 5


def course(ranks, names):
    return {(name, network): course_of(ranks, BACKENDS[name], network)
            for name in names for network in NETWORKS}


def course_of(ranks, backend, network):
    make, dtype = NETWORKS[network]

    def begin():
        return Course(backend, ranks.rank, ranks.size, STEPS + MORE, dtype, make)

    mine = begin()
    losses, traffic = [], []
    for number in range(STEPS):
        ranks.meter.phase = f"{backend.name} {network} {number}"
        losses.append(float(mine.step().loss))
        traffic.append({name: (t.calls, t.payload_bytes) for name, t
                        in ranks.meter.snapshot().get(ranks.meter.phase, {}).items()})
    ranks.meter.phase = "eval"
    evaluated = mine.evaluated()
    file, place = io.BytesIO(), mine.generator.get_state()
    torch.save(plain_state(mine.stepper.state_dict()), file)
    file.seek(0)
    other = begin()
    for _ in range(3):  # as the harness does: DDP rebuilds its buckets, which changes rounding
        other.step()
    other.stepper.load_state_dict(torch.load(file, weights_only=True))
    other.generator.set_state(place)
    ends = []
    for each in (mine, other):
        for _ in range(MORE):
            each.step()
        ends.append((each.weights(), each.evaluated()))
    return {"n": mine.n, "losses": losses, "traffic": traffic, "evaluated": evaluated,
            "ends": ends}


@pytest.fixture(scope="module")
def courses(on_ranks, request):
    asked = {item.callspec.params.get("name") for item in request.session.items
             if item.path == request.path and hasattr(item, "callspec")}
    names = tuple(name for name, backend in BACKENDS.items()
                  if name in asked and not backend.unavailable())
    runs = {size: on_ranks(course, size, names) for size in (1, 2, 3)}

    def of(name, size, network="mlp"):
        if name not in names:
            pytest.skip(f"{name}: {BACKENDS[name].unavailable()}")
        return [rank[name, network] for rank in runs[size]]

    return of


@pytest.mark.parametrize("name", NAMES)
def test_a_step_sends_what_its_backend_declares(courses, name):
    for rank in courses(name, 2):
        # DDP rebuilds its buckets in its second step; MoMo sends its loss besides the gradient.
        assert rank["traffic"][2:] == [{"all_reduce": (
            1 + (name == "momo"), BACKENDS[name].traffic.payloads(rank["n"], 2)["all_reduce"],
        )}] * (STEPS - 2)
    (alone,) = courses(name, 1)
    assert alone["traffic"] == [{}] * STEPS


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_ranks_changes_nothing_but_rounding(courses, name, network):
    (alone,), together = courses(name, 1, network), courses(name, 2, network)
    exact = {"rtol": 1e-4, "atol": 1e-6} if network == "mlp" else {"rtol": 1e-9, "atol": 1e-11}
    tolerance = {"rtol": 0, "atol": COARSE[name]} if name in COARSE else exact
    np.testing.assert_allclose(
        np.mean([rank["losses"] for rank in together], axis=0), alone["losses"],
        rtol=1e-3 if name in COARSE else 1e-5)
    np.testing.assert_allclose(together[0]["evaluated"], alone["evaluated"], **tolerance)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_replicas_stay_equal_bit_for_bit(courses, name, size, network):
    first, *others = courses(name, size, network)
    assert first["losses"] != others[0]["losses"]  # on other samples
    for other in others:
        np.testing.assert_array_equal(first["evaluated"], other["evaluated"])
        np.testing.assert_array_equal(first["ends"], other["ends"])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_goes_on_bit_for_bit_in_another_stepper(courses, name, size, network):
    for rank in courses(name, size, network):
        first, second = rank["ends"]
        np.testing.assert_array_equal(first, second)
        assert np.abs(first[1] - rank["evaluated"]).max() > 1e-7  # it did go on


def test_adam_at_its_default_is_adam_without_tuning():
    plain, default = Course(adam.backend), Course(adam.default)
    for _ in range(5):
        plain.step()
        default.step()
    np.testing.assert_array_equal(plain.weights(), default.weights())
    assert adam.default.tuning_free
    assert adam.backend.searched()
    assert not adam.default.searched()


@pytest.mark.parametrize(("backend", "package", "line"), [
    (schedule_free.backend, "schedulefree", "schedulefree"),
    (prodigy.backend, "prodigyopt", "prodigyopt"),
    (rivals.lion, "pytorch_optimizer", "bench-apts[rivals]")])
def test_a_missing_package_makes_its_backend_unavailable(monkeypatch, backend, package, line):
    monkeypatch.setitem(sys.modules, package, None)
    assert backend.unavailable() == f"package {package} is not installed: pip install '{line}'"
