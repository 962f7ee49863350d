"""The list of distinct calls: bounded, and to the last bit the sums of the record."""

from pathlib import Path

import msgspec
import pytest
from harness_ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core import store
from bench_apts.core.records import DistinctCall, Traffic
from bench_apts.core.wire import ideal_bytes
from bench_apts.meters.calls import call_mismatches, fold_calls, merge_calls, sum_calls
from bench_apts.meters.comm import CollectiveCounter


def call(payload=48, calls=1, phase="train", collective="all_reduce", ranks=3, dtype="float32",
         actual=1000):
    return DistinctCall(phase, collective, ranks, collective.upper(), dtype, None, payload,
                        ideal_bytes(collective, payload, ranks), actual, calls)


MANY = st.lists(st.builds(
    call, st.integers(0, 2**50), st.integers(1, 10**6), st.sampled_from(["train", "eval"]),
    st.sampled_from(["all_reduce", "all_gather", "send"]), st.integers(1, 9),
    st.sampled_from(["float32", "int64", None]), st.one_of(st.none(), st.integers(0, 2**40))))


def distinct_calls(connect):
    """Calls that differ in one thing each; one is repeated."""
    import torch
    import torch.distributed as dist

    meter = CollectiveCounter()
    meter.install()
    connect()
    near = dist.new_group([0, 1])
    one = torch.ones(12)
    meter.phase = "train"
    for _ in range(3):
        dist.all_reduce(one)
    dist.all_reduce(one.view(3, 4))  # of another shape, which makes no difference
    dist.all_reduce(one.double())
    dist.all_reduce(one.bfloat16())
    dist.all_reduce(one[:3])
    dist.broadcast(one, 1)
    dist.broadcast(one, 2)
    if dist.get_rank() < 2:
        dist.all_reduce(one, group=near)
    meter.phase = "eval"
    dist.all_reduce(one)
    dist.barrier()
    return meter.calls(), fold_calls(meter.calls(), 2), meter.snapshot()


@pytest.fixture(scope="module")
def three():
    return run_ranks(distinct_calls, 3)


def test_it_distinguishes_phase_group_type_root_and_size(three):
    # The broadcasts' actual bytes are those of a leaf and of an inner node of gloo's tree.
    known = [
        ("eval", "all_reduce", 3, "ALLREDUCE", "float32", None, 48, 64.0, 1),
        ("eval", "barrier", 3, "BARRIER", None, None, 0, 0.0, 1),
        ("train", "all_reduce", 2, "ALLREDUCE", "float32", None, 48, 48.0, 1),
        ("train", "all_reduce", 3, "ALLREDUCE", "bfloat16", None, 24, 32.0, 1),
        ("train", "all_reduce", 3, "ALLREDUCE", "float32", None, 12, 16.0, 1),
        ("train", "all_reduce", 3, "ALLREDUCE", "float32", None, 48, 64.0, 4),
        ("train", "all_reduce", 3, "ALLREDUCE", "float64", None, 96, 128.0, 1),
        ("train", "broadcast", 3, "BROADCAST", "float32", 1, 48, 32.0, 1),
        ("train", "broadcast", 3, "BROADCAST", "float32", 2, 48, 32.0, 1),
    ]
    for rank, (calls, _, _) in enumerate(three):
        listed = [(c.phase, c.collective, c.ranks, c.operation, c.dtype, c.root, c.payload_bytes,
                 pytest.approx(c.ideal_bytes), c.calls) for c in calls]
        assert listed == [entry for entry in known if rank < 2 or entry[2] == 3]
        assert {c.folded for c in calls} == {0}


def test_it_sums_to_the_snapshot_also_where_it_is_folded(three):
    for calls, short, snapshot in three:
        assert sum_calls(calls) == snapshot
        assert sum_calls(short) == snapshot
        assert list(call_mismatches(short, snapshot)) == []
        assert {(c.phase, c.collective, c.ranks, c.operation, c.dtype, c.root, c.payload_bytes,
                 c.calls, c.folded) for c in short if c.folded} == {
            ("train", "all_reduce", 3, None, None, None, 24 + 12, 2, 2),
            ("train", "broadcast", 3, None, None, None, 48 + 48, 2, 2)}


@given(MANY, st.integers(0, 20))
def test_folding_changes_no_sum(many, most):
    calls = merge_calls(many)
    short = fold_calls(calls, most)
    assert sum_calls(short) == sum_calls(calls)
    assert sum(c.calls for c in short) == sum(c.calls for c in many)
    assert list(call_mismatches(short, sum_calls(many))) == []
    kept = [c for c in short if not c.folded]
    assert set(kept) <= set(calls)
    assert len(kept) >= min(most, len(calls))
    kinds = {(c.phase, c.collective, c.ranks) for c in calls}
    assert len(short) <= most + len(kinds)
    for fold in set(short) - set(kept):
        assert fold.folded > 1
        assert most == 0 or fold.calls / fold.folded <= max(c.calls for c in kept)


def test_it_folds_the_rarest():
    calls = merge_calls([call(48, 100), call(12, 7), call(24, 2), call(36, 1), call(8, 3, "eval")])
    assert fold_calls(calls, 5) == calls
    assert fold_calls(calls, 2) == [
        call(8, 3, "eval"), call(12, 7), call(48, 100),
        DistinctCall("train", "all_reduce", 3, None, None, None, 2 * 24 + 36, 4 / 3 * 84, 3000,
                     3, folded=2)]


def test_unknown_actual_bytes_stay_unknown():
    calls = [call(12), call(24, actual=None)]
    assert sum_calls(calls) == {
        "train": {"all_reduce": Traffic(2, 36, ideal_bytes("all_reduce", 36, 3), None)}}
    (fold,) = fold_calls(calls, 0)
    assert fold.actual_bytes is None


@pytest.mark.parametrize(("changes", "words"), [
    ({"calls": 3}, "calls of all_reduce (train) are 2, the distinct calls sum to 3"),
    ({"payload_bytes": 47}, "payload_bytes of all_reduce (train) are 96"),
    ({"ideal_bytes": 63.0}, "a call of all_reduce (train) has 63 ideal bytes, its payload makes"),
    ({"actual_bytes": 999}, "actual_bytes of all_reduce (train) are 2000"),
    ({"phase": "eval"}, "calls of all_reduce (train) are 2, the distinct calls sum to 0"),
    ({"ranks": 2}, "ideal_bytes of all_reduce (train) are 128"),
])
def test_a_list_that_does_not_sum_up_is_named(changes, words):
    calls = [call(48, 2)]
    comm = sum_calls(calls)
    assert list(call_mismatches(calls, comm)) == []
    changed = [msgspec.structs.replace(calls[0], **changes)]
    assert any(words in line for line in call_mismatches(changed, comm)), list(
        call_mismatches(changed, comm))


def test_every_record_lists_its_calls(finished):
    assert finished.records
    for record in finished.records:
        calls = record.end.calls
        assert calls == sorted(calls, key=lambda c: (c.phase, c.collective, c.ranks))
        assert list(call_mismatches(calls, record.end.comm)) == []
        dtype = "uint8" if record.trial.label == "apts" else "float32"
        expected = {(record.trial.ranks, dtype)} if record.trial.ranks > 1 else set()
        assert {(c.ranks, c.dtype) for c in calls
                if c.phase == "train" and c.collective in ("all_reduce", "all_to_all")} == expected


def test_a_record_of_before_has_no_list(finished, tmp_path):
    source = next(record for record in finished.records if record.trial.ranks > 1)
    lines = [msgspec.json.decode(line)
             for line in Path(source.path).read_bytes().splitlines()]
    assert lines[-1].pop("calls")
    path = tmp_path / "old.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    old = store.read_trial(path)
    assert old.end.calls is None
    assert old.end.comm == source.end.comm
