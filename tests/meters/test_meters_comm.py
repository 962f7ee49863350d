"""Bytes on the network: known answers for every collective, over real gloo."""

import pickle

import msgspec
import pytest
import torch_names
from comm_ranks import every_collective
from harness_ranks import run_ranks

from bench_apts.meters.comm import CollectiveCounter

S = 48  # bytes of the tensors below: 12 floats


@pytest.fixture(scope="module")
def seen():
    return {size: run_ranks(every_collective, size, 12) for size in (1, 2, 4)}


def expected(n):
    """Calls, payload and ideal bytes sent per rank, by phase and collective."""
    f = (n - 1) / n
    found = {
        "all_reduce": {"all_reduce": (1, S, 2 * f * S)},
        "all_reduce_async": {"all_reduce": (1, S, 2 * f * S)},
        "all_reduce_max": {"all_reduce": (1, S, 2 * f * S)},
        "all_reduce_double": {"all_reduce": (1, 2 * S, 2 * f * 2 * S)},
        "all_reduce_bfloat16": {"all_reduce": (1, S // 2, f * S)},
        "all_reduce_int64": {"all_reduce": (1, 2 * S, 2 * f * 2 * S)},
        "all_reduce_uint8": {"all_reduce": (1, S // 4, f * S / 2)},
        "all_reduce_complex": {"all_reduce": (1, 2 * S, 2 * f * 2 * S)},
        "all_reduce_scalar": {"all_reduce": (1, 4, 2 * f * 4)},
        "all_reduce_nothing": {"all_reduce": (1, 0, 0)},
        "all_reduce_coalesced": {"all_reduce": (1, 2 * S, 2 * f * 2 * S)},
        "all_reduce_in_inference": {"all_reduce": (1, S, 2 * f * S)},
        "broadcast_nothing": {"broadcast": (1, 0, 0)},
        "reduce_nothing": {"reduce": (1, 0, 0)},
        "all_gather_nothing": {"all_gather": (1, 0, 0)},
        "all_gather_coalesced": {"all_gather": (1, n * (S + 12), f * n * (S + 12))},
        "all_gather_into_tensor_coalesced": {"all_gather": (1, 2 * n * S, f * 2 * n * S)},
        "reduce_scatter": {"reduce_scatter": (1, n * S, f * n * S)},
        "reduce_scatter_tensor_coalesced": {
            "reduce_scatter": (1, 2 * n * S, f * 2 * n * S)},
        "all_to_all": {"all_to_all": (1, n * S, f * n * S)},
        "gather_nothing": {"gather": (1, 0, 0)},
        "broadcast": {"broadcast": (1, S, f * S)},
        "reduce": {"reduce": (1, S, f * S)},
        "all_gather": {"all_gather": (1, n * S, f * n * S)},
        "all_gather_single": {"all_gather": (1, n * S, f * n * S)},
        "reduce_scatter_single": {"reduce_scatter": (1, n * S, f * n * S)},
        "all_to_all_single": {"all_to_all": (1, n * S, f * n * S)},
        "gather": {"gather": (1, n * S, f * S)},
        "scatter": {"scatter": (1, n * S, f * S)},
        "barrier": {"barrier": (1, 0, 0)},
        "twice": {"all_reduce": (2, S + n * S, 2 * f * (S + n * S)), "broadcast": (1, S, f * S)},
    }
    if not torch_names.GLOO_ALL_TO_ALL:
        del found["all_to_all"]
    return found


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_collective_has_its_known_answer(seen, size):
    for name, counts, *_ in seen[size]:
        assert name == torch_names.METER
        for phase, known in expected(size).items():
            found = {collective: (t["calls"], t["payload_bytes"], pytest.approx(t["ideal_bytes"]))
                     for collective, t in counts[phase].items()}
            assert found == known, phase
        assert set(counts) - {"send", "send_to_anybody"} == {
            *expected(size), "all_gather_object", "between"}


@pytest.mark.parametrize("size", [2, 4])
def test_only_the_sender_is_charged_for_a_message(seen, size):
    counts = [counts.get("send") for _, counts, *_ in seen[size]]
    # gloo: a header of 48 bytes announces a message, one precedes it, one asks for it.
    assert counts[0] == {"send": {
        "calls": 1, "payload_bytes": S, "ideal_bytes": S, "actual_bytes": 2 * 48 + S}}
    assert counts[1] == {"recv": {
        "calls": 1, "payload_bytes": S, "ideal_bytes": 0, "actual_bytes": 48}}
    assert counts[2:] == [None] * (size - 2)


@pytest.mark.parametrize("size", [2, 4])
def test_objects_are_gathered_as_their_sizes_and_their_bytes(seen, size):
    pickled = len(pickle.dumps({"answer": 42}))
    for _, counts, *_ in seen[size]:
        traffic = counts["all_gather_object"]["all_gather"]
        assert traffic["calls"] == 2
        content = traffic["payload_bytes"] / size - 8  # the sizes are int64
        assert pickled - 16 <= content <= pickled + 16  # pickle protocols differ a little
        assert traffic["ideal_bytes"] == pytest.approx(
            traffic["payload_bytes"] * (size - 1) / size)


def test_alone_nothing_is_sent(seen):
    ((_, counts, *_),) = seen[1]
    assert counts
    assert {t["ideal_bytes"] for phase in counts.values() for t in phase.values()} == {0}
    assert {t["actual_bytes"] for phase in counts.values() for t in phase.values()} == {0}


def sub_groups(connect):
    import torch
    import torch.distributed as dist

    meter = CollectiveCounter()
    meter.install()
    connect()
    groups = [dist.new_group(members) for members in ([0, 1], [1, 2, 3], [0, 1, 2, 3])]
    for number, group in enumerate(groups):
        meter.phase = f"group {number}"
        if group != dist.GroupMember.NON_GROUP_MEMBER:
            dist.all_reduce(torch.ones(12), group=group)
    return msgspec.to_builtins(meter.snapshot())


def test_groups_count_with_their_own_size():
    ranks = run_ranks(sub_groups, 4)
    for number, members, sent in ((0, {0, 1}, S), (1, {1, 2, 3}, 4 / 3 * S),
                                  (2, {0, 1, 2, 3}, 1.5 * S)):
        for rank, counts in enumerate(ranks):
            traffic = counts.get(f"group {number}")
            if rank in members:
                assert traffic["all_reduce"]["ideal_bytes"] == pytest.approx(sent)
            else:
                assert traffic is None


def data_parallel(connect, steps):
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    meter = CollectiveCounter()
    meter.install()
    connect()
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    for phase, count in (("warmup", 3), ("train", steps)):
        meter.phase = phase
        for step in range(count):
            inputs = torch.full((4, 64), float(step + dist.get_rank()))
            optimizer.zero_grad()
            parallel(inputs).sum().backward()
            optimizer.step()
    meter.phase = "eval"
    before = meter.snapshot()
    dist.all_reduce(torch.ones(1))
    assert "eval" not in before, "a snapshot must not follow later counts"
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, msgspec.to_builtins(meter.snapshot())


@pytest.mark.parametrize(("size", "factor"), [(2, 1.0), (4, 1.5)])
def test_data_parallel_training_sends_exactly_its_gradients(size, factor):
    for parameters, counts in run_ranks(data_parallel, size, 7):
        assert set(counts["train"]) == {"all_reduce"}
        assert counts["train"]["all_reduce"]["payload_bytes"] == 7 * 4 * parameters
        assert counts["train"]["all_reduce"]["ideal_bytes"] == 7 * factor * 4 * parameters
        assert counts["eval"]["all_reduce"]["payload_bytes"] == 4


def test_nothing_is_counted_before_the_meter_is_installed():
    meter = CollectiveCounter()
    assert meter.name == "none (install() was not called)"
    assert not meter.counting
    assert meter.snapshot() == {}
    assert meter.predicted() == (0, 0)
