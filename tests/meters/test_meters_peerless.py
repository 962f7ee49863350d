"""What optimizers send at 64 and 512 ranks, exactly, and what a projection from 2 ranks misses.

``bench-apts project`` takes calls and payload of a step to be the same at any N.
"""

import pytest
import torch.distributed
from harness_ranks import run_ranks

if not hasattr(torch.distributed.distributed_c10d, "C10DBackend"):
    pytest.skip("this torch takes no backend that is written in Python", allow_module_level=True)

from peerless_answers import known, padded, rounds
from peerless_ranks import SHARE, reduced, refused, trained

from bench_apts.core.records import Traffic
from bench_apts.stats.modelled_training import BatchScaling, RecordedWork, project
from bench_apts.stats.network_model import Algorithm, Fabric, Interconnect, collective_seconds

LARGE = (64, 512)
STEPS = 12
NETWORK = Interconnect(Fabric(1e9, 1e-5, "round numbers"))
WHOLE = {"preset": "2026-11"}
"""Messages of 32 bits: others are padded, by N."""
LSR1 = {"global_solver": "l-sr1"}

ALIKE = {
    "sgd": ("sgd", {}),
    "adam": ("adam", {}),
    "apts-paper": ("apts-paper", {}),
    "apts-paper, l-sr1": ("apts-paper", {"solver": "l-sr1", **LSR1}),
    "apts-paper, local": ("apts-paper", {"global_pass": False}),
    "napts": ("napts", {}),
    "tr": ("tr", {}),
    "tr, l-sr1": ("tr", LSR1),
    "apts, unjudged": ("apts", {**WHOLE, "judge": False}),
}
"""Optimizers whose steps are the same at any N: none of these sizes and calls depends on it."""

JUDGED = ("apts", WHOLE)
RETRIED = ("tr", {"retries": 3, "radius": 4.0})
CASES = [*ALIKE.values(), JUDGED, RETRIED]

ZERO = ("zero1", "zero2", "zero3")


def asked(found, ranks):
    """The steps' collectives and payloads; all are in training and of all ranks."""
    calls = [call for step in found.steps for call in step]
    assert {(phase, size) for phase, _, _, size in calls} == {("train", ranks)}
    return [[call[1:3] for call in step] for step in found.steps]


def alone(rank, ranks, cases=CASES, steps=STEPS, suite="digits", incoming=None):
    ((found, outgoing),) = run_ranks(trained, 1, cases, steps, (rank, ranks), suite, incoming)
    return found, outgoing


def by_case(found):
    return dict(zip([*ALIKE, "apts", "retried"], found, strict=True))


@pytest.fixture(scope="module")
def real():
    """Two ranks over gloo."""
    return [by_case(found) for found, _ in run_ranks(trained, 2, CASES, STEPS)]


@pytest.fixture(scope="module")
def large():
    """The first and the last rank of large worlds."""
    return {(rank, ranks): by_case(alone(rank, ranks)[0])
            for ranks in LARGE for rank in (0, ranks - 1)}


def test_a_rank_without_peers_gets_what_equal_ranks_get():
    gloo = run_ranks(reduced, 3)
    ((first, outgoing),) = run_ranks(reduced, 1, (0, 3))
    ((last, _),) = run_ranks(reduced, 1, (2, 3), outgoing)
    assert first == gloo[0][0]
    assert last == gloo[2][0]
    assert first["sum"] == [[3, 6, 9, 12]]
    assert last["broadcast"] == [[1, 2, 3, 4]]


def test_what_equal_ranks_cannot_answer_raises():
    ((*errors,),) = run_ranks(refused, 1)
    assert len(errors) == 4
    assert "over equal ranks" in errors[0]


def same_calls(without, among):
    """Two ranks over gloo and one without its peer ask for the same, warm-up included."""
    assert without.before == among.before
    assert without.steps == among.steps
    assert {name: (t["calls"], t["payload_bytes"], t["ideal_bytes"])
            for name, t in without.traffic.items()} == {
                name: (t["calls"], t["payload_bytes"], t["ideal_bytes"])
                for name, t in among.traffic.items()}


@pytest.mark.parametrize("rank", [0, 1])
def test_training_without_the_peer_is_that_of_two_ranks(real, rank):
    for name, found in by_case(alone(rank, 2)[0]).items():
        same_calls(found, real[rank][name])
        # Bit for bit, since both ranks were given the same data.
        assert found.losses == real[rank][name].losses, name


@pytest.mark.parametrize("name", ALIKE)
def test_a_step_is_the_same_at_any_number_of_ranks(real, large, name):
    worlds = {(rank, 2): cases for rank, cases in enumerate(real)} | large
    for (_, ranks), cases in worlds.items():
        assert asked(cases[name], ranks) == known(name, cases[name].sizes, ranks, STEPS)


def test_tries_after_a_refused_step_are_one_float_each(real, large):
    worlds = {(rank, 2): cases for rank, cases in enumerate(real)} | large
    tries = set()
    for (_, ranks), cases in worlds.items():
        found = cases["retried"]
        for first, *rest in asked(found, ranks):
            assert first == ("all_reduce", 4 * (sum(found.sizes) + 1))
            assert set(rest) == {("all_reduce", 4)}
            tries.add(len(rest))
    assert 1 <= min(tries) < max(tries) <= 4  # how many depends on the data


def test_apts_sends_its_counts_once_before_the_first_round(real, large):
    worlds = {(rank, 2): cases for rank, cases in enumerate(real)} | large
    for (_, ranks), cases in worlds.items():
        message = ("warmup", "all_reduce", 4 * sum(cases["apts"].sizes), ranks)
        counts = ("warmup", "all_reduce", 8 * (2 + ranks), ranks)
        assert cases["apts"].before == [counts, message, message, message]


@pytest.fixture(scope="module")
def long():
    """``apts`` until its rounds have their full length and beyond."""
    return {ranks: alone(0, ranks, [JUDGED], 320)[0][0] for ranks in (2, *LARGE)}


def test_rounds_of_apts_end_at_the_same_steps_and_tests_add_six_floats(long):
    for ranks, found in long.items():
        n = sum(found.sizes)
        assert found.agreed == rounds(320)
        assert asked(found, ranks) == [
            [("all_reduce", 4 * (n + 6 * tested))] * agreed
            for tested, agreed in zip(found.tested, found.agreed, strict=True)]
        # Which rounds are tested depends on what the tests say, and that on all samples.
        assert 16 <= sum(found.tested) <= sum(found.agreed) == 64 + 5
    assert long[2].tested != long[64].tested


def work(found):
    """What the meter of two ranks recorded, as a projection takes it."""
    traffic = {name: Traffic(**counts) for name, counts in found.traffic.items()}
    return RecordedWork(2, len(found.steps), 2 * SHARE, 1.0, "cpu_s", traffic, hit=True)


def projected(found, ranks, algorithm):
    """Seconds of communication in a step at ``ranks``, from what two ranks recorded."""
    return project(work(found), ranks, BatchScaling.weak, NETWORK, algorithm).communication_s


def modelled(found, ranks, algorithm, steps=None):
    """The same from what was asked at that size, in the first ``steps`` if given."""
    asked_for = asked(found, ranks)[:steps]
    return sum(collective_seconds(name, payload, ranks, NETWORK, algorithm)
               for step in asked_for for name, payload in step) / len(asked_for)


@pytest.mark.parametrize("ranks", LARGE)
@pytest.mark.parametrize("name", ALIKE)
def test_two_ranks_predict_such_optimizers_exactly(real, large, name, ranks):
    for rank in (0, ranks - 1):
        found = large[rank, ranks][name]
        for algorithm in (Algorithm.ring, Algorithm.tree):
            assert projected(real[0][name], ranks, algorithm) == pytest.approx(
                modelled(found, ranks, algorithm), rel=1e-12)
        # Small calls and large ones may have different best algorithms, the average has one.
        best = modelled(found, ranks, Algorithm.best)
        assert best <= projected(real[0][name], ranks, Algorithm.best) * (1 + 1e-12)


@pytest.mark.parametrize("ranks", LARGE)
def test_two_ranks_predict_apts_up_to_the_scalars_of_its_tests(long, ranks):
    found = long[ranks]
    for algorithm in (Algorithm.ring, Algorithm.tree):
        error = projected(long[2], ranks, algorithm) - modelled(found, ranks, algorithm)
        more_tests = sum(long[2].tested) - sum(found.tested)
        sent = (collective_seconds("all_reduce", 24, ranks, NETWORK, algorithm)
                - collective_seconds("all_reduce", 0, ranks, NETWORK, algorithm))
        assert error == pytest.approx(more_tests * sent / 320, rel=1e-6)
        assert abs(error) < 1e-3 * modelled(found, ranks, algorithm)


@pytest.mark.parametrize(("ranks", "steps"), [(64, 10), (512, 2)])
def test_a_shorter_training_of_apts_has_more_rounds_in_a_step_than_was_recorded(
        long, ranks, steps):
    # Weak scaling takes N/2 times fewer steps, and these end before rounds have grown.
    done = work(long[2])
    assert project(done, ranks, BatchScaling.weak, NETWORK).steps == steps
    for algorithm in (Algorithm.ring, Algorithm.tree):
        short = modelled(long[ranks], ranks, algorithm, steps)
        assert short / projected(long[2], ranks, algorithm) == pytest.approx(320 / 69, rel=1e-3)


@pytest.fixture(scope="module")
def zero():
    """Ranks of worlds without peers; the first one's broadcasts are there for the last one."""
    done, outgoing = {}, {}

    def get(name, rank, ranks, suite="digits"):
        if (name, rank, ranks, suite) not in done:
            incoming = None
            if rank:
                get(name, 0, ranks, suite)
                incoming = outgoing[name, ranks, suite]
            (found,), outgoing[name, ranks, suite] = alone(
                rank, ranks, [(name, {})], STEPS, suite, incoming)
            done[name, rank, ranks, suite] = found
        return done[name, rank, ranks, suite]

    return get


def steps_are_known(zero, name, rank, ranks, suite="digits"):
    found = zero(name, rank, ranks, suite)
    assert asked(found, ranks) == known(name, found.sizes, ranks, STEPS)


def test_zero_pads_every_parameter_to_the_ranks(zero):
    steps_are_known(zero, "zero3", 0, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZERO)
@pytest.mark.parametrize("ranks", LARGE)
def test_zero_pads_to_the_ranks_wherever_it_runs(zero, name, ranks):
    for rank in (0, ranks - 1):
        steps_are_known(zero, name, rank, ranks)
        steps_are_known(zero, name, rank, ranks, "mnist")


@pytest.mark.slow
@pytest.mark.parametrize("name", ZERO)
def test_zero_without_the_peer_asks_for_what_it_asks_of_two_ranks(zero, name):
    for rank, ((among,), _) in enumerate(run_ranks(trained, 2, [(name, {})], STEPS)):
        same_calls(zero(name, rank, 2), among)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZERO)
@pytest.mark.parametrize("ranks", LARGE)
@pytest.mark.parametrize("suite", ["digits", "mnist"])
def test_two_ranks_predict_zero_up_to_its_padding(zero, name, ranks, suite):
    few, found = zero(name, 0, 2, suite), zero(name, 0, ranks, suite)
    # Bytes by which the padding of N ranks exceeds that of two, in a step.
    longer = [4 * (padded(size, ranks) - padded(size, 2)) for size in found.sizes]
    if name == "zero3":
        more = 2 * sum(longer)  # reduced and scattered, then gathered
        most = 3 * 4 * ranks * len(longer)
    else:
        n = sum(found.sizes)
        more = 4 * (padded(n, 2 * ranks) - padded(n, 4))
        most = 8 * ranks
    assert 0 < more < most
    for algorithm in (Algorithm.ring, Algorithm.tree):
        missed = modelled(found, ranks, algorithm) - projected(few, ranks, algorithm)
        assert missed == pytest.approx(
            (ranks - 1) / ranks * more / NETWORK.outer.bytes_per_s, rel=1e-6)
