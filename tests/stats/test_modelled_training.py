"""Modelled times: by hand for each shape, and the order that they must keep."""

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_records import record

from bench_apts.core.records import DistinctCall, Traffic
from bench_apts.stats.modelled_training import (
    BatchScaling,
    RecordedWork,
    computing,
    project,
    recorded_work,
    statistical_efficiency,
)
from bench_apts.stats.network_model import (
    COLLECTIVES,
    Algorithm,
    Fabric,
    Interconnect,
    collective_seconds,
)

RING, TREE, LEVELS, GLOO, BEST = (
    Algorithm.ring, Algorithm.tree, Algorithm.hierarchical, Algorithm.gloo, Algorithm.best)

# Round numbers: a hop costs 1 s, a byte 0.01 s; within a node a hundredth of both.
SLOW = Interconnect(Fabric(100.0, 1.0, "by hand"))
FAST = Fabric(10_000.0, 0.01, "by hand")
NODES = Interconnect(SLOW.outer, FAST, 4)


@pytest.mark.parametrize(("collective", "ring", "tree"), [
    # 8 ranks, 800 bytes: 7 rounds or 3; 700 bytes are what a rank lacks of them.
    ("all_reduce", 14 + 14.0, 6 + 16.0),
    ("all_gather", 7 + 7.0, 3 + 7.0),
    ("reduce_scatter", 7 + 7.0, 3 + 7.0),
    ("broadcast", 7 + 8.0, 3 + 8.0),
    ("reduce", 7 + 8.0, 3 + 8.0),
    ("gather", 7 + 7.0, 3 + 7.0),
    ("scatter", 7 + 7.0, 3 + 7.0),
    ("all_to_all", 7 + 7.0, 7 + 7.0),
    ("send", 1 + 8.0, 1 + 8.0),
    ("recv", 0.0, 0.0),
    ("barrier", 3.0, 3.0),
])
def test_one_level_by_hand(collective, ring, tree):
    assert collective_seconds(collective, 800, 8, SLOW, RING) == pytest.approx(ring)
    assert collective_seconds(collective, 800, 8, SLOW, TREE) == pytest.approx(tree)
    assert collective_seconds(collective, 800, 8, SLOW, BEST) == pytest.approx(min(ring, tree))
    assert collective_seconds(collective, 800, 8, SLOW, LEVELS) == math.inf


def test_two_ranks_and_uneven_trees_by_hand():
    assert collective_seconds("all_reduce", 800, 2, SLOW, RING) == pytest.approx(2 + 8)
    assert collective_seconds("all_reduce", 800, 2, SLOW, TREE) == pytest.approx(2 + 16)
    assert collective_seconds("all_reduce", 0, 5, SLOW, TREE) == 2 * 3
    assert collective_seconds("all_reduce", 0, 4096, SLOW, TREE) == 2 * 12
    assert collective_seconds("all_reduce", 0, 4096, SLOW, RING) == 2 * 4095


def test_two_levels_by_hand():
    # 8 ranks in 2 nodes of 4. Inside, a tree of 2 hops and 3/4 of the bytes, twice; outside a
    # quarter of the bytes between 2 ranks: 2 hops, 200 bytes.
    inside = 2 * 0.01 + 600 / 10_000
    assert collective_seconds("all_reduce", 800, 8, NODES, LEVELS) == pytest.approx(
        2 * inside + 2 + 2
    )
    assert collective_seconds("all_gather", 800, 8, NODES, LEVELS) == pytest.approx(inside + 1 + 1)
    assert collective_seconds("reduce_scatter", 800, 8, NODES, LEVELS) == pytest.approx(
        inside + 1 + 1
    )
    assert collective_seconds("broadcast", 800, 8, NODES, LEVELS) == pytest.approx(
        0.02 + 0.08 + 1 + 8
    )
    # What has no two-level form crosses the network as if there were no nodes.
    assert collective_seconds("all_to_all", 800, 8, NODES, LEVELS) == collective_seconds(
        "all_to_all", 800, 8, SLOW
    )
    # One node has no outside; a world that does not fill its nodes has no hierarchy.
    assert collective_seconds("all_gather", 800, 4, NODES, LEVELS) == pytest.approx(inside)
    assert collective_seconds("all_reduce", 800, 6, NODES, LEVELS) == math.inf
    assert collective_seconds("all_reduce", 800, 6, NODES) == collective_seconds(
        "all_reduce", 800, 6, SLOW
    )


@pytest.mark.parametrize(("collective", "expected"), [
    # 8 ranks, 800 bytes: 7 rounds of two messages, each one hop; a tree of 3 levels.
    ("all_reduce", 28 + 14.0),
    ("reduce_scatter", 28 + 14.0),
    ("all_gather", 14 + 7.0),
    ("reduce", 16 + 8.0),
    ("broadcast", 4 + 24.0),
    ("gather", 2 + 7.0),
    ("scatter", 2 + 7.0),
    ("all_to_all", 2 + 7.0),
    ("send", 2 + 8.0),
    ("recv", 0.0),
    ("barrier", 6.0),
])
def test_gloo_by_hand(collective, expected):
    assert collective_seconds(collective, 800, 8, SLOW, GLOO) == pytest.approx(expected)
    assert collective_seconds(collective, 800, 8, NODES, GLOO) == pytest.approx(expected)


def test_gloo_pays_for_segments_of_large_messages_and_little_for_scalars():
    free = Interconnect(Fabric(1e30, 1.0, "latency alone"))
    mebi = 2**20
    # At N = 2 a rank passes half of the segments on, in each of two phases.
    assert [collective_seconds("all_reduce", size * mebi, 2, free, GLOO)
            for size in (1, 4, 4.1, 6, 8, 80)] == [4, 4, 6, 6, 8, 80]
    assert [collective_seconds("all_reduce", size, 2, free, GLOO) for size in (4, 8, 12)] == [
        3,
        3,
        4,
    ]
    assert collective_seconds("all_reduce", 4, 4, free, GLOO) == 7


@pytest.mark.parametrize("algorithm", [RING, TREE, GLOO, BEST])
def test_one_rank_alone_needs_nobody(algorithm):
    for collective in COLLECTIVES:
        assert collective_seconds(collective, 800, 1, SLOW, algorithm) == 0


def test_what_the_model_does_not_know_is_no_zero():
    with pytest.raises(KeyError):
        collective_seconds("all_guess", 800, 8, SLOW)


ranks = st.integers(1, 5000)
payloads = st.floats(0, 1e12)
fabrics = st.builds(Fabric, st.floats(1e3, 1e12), st.floats(0, 1), st.just(""))
networks = st.builds(Interconnect, fabrics, st.none() | fabrics, st.integers(1, 64))
collectives = st.sampled_from(sorted(COLLECTIVES))
algorithms = st.sampled_from(list(Algorithm))


@given(collectives, payloads, ranks, networks, algorithms, st.floats(1, 1e3))
def test_more_bandwidth_and_less_latency_are_never_slower(
        collective, payload, n, network, algorithm, factor):
    def bandwidth(fabric):
        return fabric and msgspec.structs.replace(
            fabric, bytes_per_s=fabric.bytes_per_s * factor)

    def latency(fabric):
        return fabric and msgspec.structs.replace(fabric, latency_s=fabric.latency_s / factor)

    before = collective_seconds(collective, payload, n, network, algorithm)
    for change in (bandwidth, latency):
        better = network._replace(outer=change(network.outer), inner=change(network.inner))
        assert collective_seconds(collective, payload, n, better, algorithm) <= before * (
            1 + 1e-12
        )


@given(collectives, payloads, ranks, networks, st.floats(1, 10), st.integers(1, 100))
def test_larger_messages_and_larger_worlds_are_never_faster(
        collective, payload, n, network, factor, more):
    before = collective_seconds(collective, payload, n, network)
    assert collective_seconds(collective, payload * factor, n, network) >= before * (1 - 1e-12)
    for algorithm in (RING, TREE):
        before = collective_seconds(collective, payload, n, network, algorithm)
        after = collective_seconds(collective, payload, n + more, network, algorithm)
        assert after >= before * (1 - 1e-12)


@given(collectives, payloads, ranks, networks)
def test_the_best_is_the_least_of_all(collective, payload, n, network):
    best = collective_seconds(collective, payload, n, network)
    assert best == min(collective_seconds(collective, payload, n, network, one)
                       for one in (RING, TREE, LEVELS))
    assert 0 <= best < math.inf


# Twenty steps of 0.5 s computing and two all-reduces of 400 bytes at N = 2.
DONE = RecordedWork(2, 20, 64, 10.0, "cpu_s", {"all_reduce": Traffic(40, 16_000, 16_000.0)}, True)


def test_strong_scaling_by_hand():
    found = project(DONE, 8, BatchScaling.strong, SLOW, RING)
    assert found.compute_s == 0.125
    assert found.communication_s == pytest.approx(2 * (14 + 7))
    assert found.step_s == pytest.approx(42.125)
    assert found.steps == 20
    assert found.to_target_s == pytest.approx(20 * 42.125)


def call(payload, calls, phase="train", collective="all_reduce", folded=0):
    return DistinctCall(phase, collective, 2, None, None, None, payload, 0.0, None, calls, folded)


def test_sizes_that_a_record_tells_apart_are_not_averaged():
    # Of all training: three in four carry 4 bytes, and two folded ones 3,000 bytes together.
    listed = (call(4, 6), call(3_000, 2, folded=2), call(7, 5, phase="eval"),
              call(7, 5, collective="broadcast"))
    done = replace(DONE, listed=listed)
    assert list(done.messages()) == [("all_reduce", 4, 30), ("all_reduce", 1_500, 10)]
    found = project(done, 2, BatchScaling.strong, SLOW, GLOO)
    assert found.communication_s == pytest.approx((30 * 3.04 + 10 * (4 + 15)) / 20)
    assert list(DONE.messages()) == [("all_reduce", 400, 40)]
    elsewhere = replace(DONE, listed=listed[2:])
    assert list(elsewhere.messages()) == list(DONE.messages())


def test_the_calls_of_a_record_are_read(hit):
    assert recorded_work(hit, 0.01).listed == ()
    hit.end.calls = [call(1_000, 2)]
    assert list(recorded_work(hit, 0.01).messages()) == [
        ("all_reduce", 1_000, 2),
        ("broadcast", 1_000, 2),
    ]
    hit.end = None
    assert recorded_work(hit, 0.01).listed == ()


def test_weak_scaling_by_hand():
    found = project(DONE, 8, BatchScaling.weak, SLOW, RING)
    assert (found.compute_s, found.steps) == (0.5, 5)
    assert found.to_target_s == pytest.approx(5 * (0.5 + 42))
    assert project(DONE, 4096, BatchScaling.weak, SLOW).steps == 1


def test_the_recorded_world_gives_back_the_recorded_compute():
    free = Interconnect(Fabric(1e30, 0.0, ""))
    for scaling in BatchScaling:
        assert project(DONE, 2, scaling, free).to_target_s == pytest.approx(10)


def test_a_minibatch_cannot_be_cut_into_less_than_samples():
    assert project(DONE, 64, BatchScaling.strong, SLOW) is not None
    assert project(DONE, 65, BatchScaling.strong, SLOW) is None
    assert project(DONE, 65, BatchScaling.weak, SLOW) is not None


def test_a_miss_has_a_step_time_and_no_time_to_target():
    found = project(replace(DONE, hit=False), 8, BatchScaling.strong, SLOW)
    assert found.to_target_s == math.inf
    assert 0 < found.step_s < math.inf


@pytest.fixture
def hit():
    """Hits at its third evaluation of five: 20 steps, 2 s, 200 samples."""
    found = record([0.1, 0.5, 0.95, 0.96, 0.97], status="hit")
    for index, event in enumerate(found.evals):
        event.cpu_s = 0.75 * index
    return found


def on_gpus(found):
    found.header.trial = msgspec.structs.replace(found.trial, device="cuda")
    return found


def test_work_is_read_at_the_hit_and_of_training_alone(hit):
    done = recorded_work(hit, 0.01)
    assert (done.ranks, done.steps, done.batch_size, done.hit) == (2, 20, 8, True)
    # Not the 1.5 CPU seconds of the record, in which is what gloo needs to communicate.
    assert (done.compute_s, done.basis) == (0.01 * 200 / 2, "cpu_s at N = 1")
    assert done.traffic == {"all_reduce": Traffic(2, 2_000, 1_200.0),
                            "broadcast": Traffic(2, 2_000, 800.0)}


def test_work_of_a_miss_is_all_that_was_done():
    done = recorded_work(record([0.1, 0.2, 0.3, 0.4]), 0.01)
    assert (done.steps, done.hit) == (30, False)


def test_computing_is_that_of_one_rank_alone(hit):
    assert computing([hit]) is None  # two ranks communicate
    alone = [record([0.1, 0.5, 0.95], ranks=1) for _ in range(3)]
    for made, cpu_s in zip(alone, (1.0, 4.0, 2.0), strict=True):
        made.evals[-1].cpu_s = cpu_s
    assert computing([hit, *alone]) == 2.0 / 200
    assert computing([*map(on_gpus, alone)]) == 2.0 / 200  # 2 s of training each
    assert computing([record([0.1], ranks=1)]) is None  # it took no step
    assert recorded_work(on_gpus(hit), 0.01).basis == "train_s at N = 1"


def test_without_a_step_there_is_no_work():
    assert recorded_work(record([]), 0.01) is None
    assert recorded_work(record([0.1]), 0.01) is None


@pytest.mark.parametrize(("batch", "known"), [
    (64, "measured"), (128, "measured"), (100, "assumed"), (512, "assumed"), (513, "unknown"),
    (32_768, "unknown")])
def test_samples_to_the_target_are_known_of_minibatches_that_were_run(batch, known):
    assert statistical_efficiency(batch, {64, 128}, 50_000) == known


def test_no_minibatch_beyond_a_tenth_of_the_training_set_is_modelled():
    assert statistical_efficiency(128, {64}, 1_280) == "assumed"
    assert statistical_efficiency(128, {64}, 1_279) == "unknown"
    assert statistical_efficiency(1_000, {1_000}, 1_437) == "measured"
    assert statistical_efficiency(1, (), 1_437) == "unknown"
