"""Fingerprints tell any two sets of tensors apart, and ranks' buffers are brought in line."""

import pytest
import torch
from harness_ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench_apts.plugins import replicas
from bench_apts.trial import trained_model

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8,
          torch.bool, torch.complex64, torch.complex128]


def on_a_device(tensors):
    """The fingerprint as it is worked out where tensors are not on the CPU."""
    return [int(replicas._reduced(tensor)) for tensor in tensors]


@pytest.fixture(params=[replicas.fingerprint, on_a_device])
def fingerprint(request):
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 3, 4)])
def test_all_dtypes_and_shapes_have_one(fingerprint, dtype, shape):
    tensor = torch.ones(shape, dtype=dtype)
    assert fingerprint([tensor]) == fingerprint([tensor.clone()])


def test_strides_do_not_count(fingerprint):
    image = torch.randn(2, 3, 4, 4)
    assert fingerprint([image]) == fingerprint([image.to(memory_format=torch.channels_last)])


@given(st.integers(0, 2**31), st.integers(2, 3000), st.data())
def test_a_changed_or_moved_bit_shows(seed, size, data):
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    place = data.draw(st.integers(0, size - 1))
    changed = values.clone()
    changed.view(torch.int32)[place] ^= 1 << data.draw(st.integers(0, 31))
    moved = values.roll(1)
    for method in (replicas.fingerprint, on_a_device):
        assert method([values]) == method([values.clone()])
        assert method([values]) != method([changed])
        if not torch.equal(moved, values):
            assert method([values]) != method([moved])


def test_long_tensors_are_reduced_in_chunks(monkeypatch):
    values = torch.randn(1000)
    whole = on_a_device([values])
    monkeypatch.setattr(replicas, "_CHUNK", 7)
    assert on_a_device([values]) == whole


WATCHED = [
    lambda: torch.randn(3, 4), lambda: torch.randn(1 << 17), lambda: torch.ones(5).bfloat16(),
    lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), lambda: torch.ones(())]


@pytest.mark.parametrize("make", WATCHED)
@pytest.mark.parametrize("write", [
    lambda p: p.data.view(-1)[-1:].add_(1), lambda p: p.detach().numpy().__iadd__(1),
    lambda p: setattr(p, "data", p.data + 1), lambda p: p.data.copy_(p.data + 1)])
def test_a_write_past_the_version_counter_shows(make, write):
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(make())]
    watched = replicas.Weights(parameters)
    before = watched.bits()
    assert watched.bits() == before
    if parameters[1].is_contiguous() and parameters[1].dtype == torch.float32:
        write(parameters[1])
    else:
        parameters[1].data.add_(1)
    assert watched.bits() != before
    moved = watched.bits()
    parameters[0].data = parameters[0].data.clone()  # the same bits elsewhere
    assert watched.bits() == moved
    parameters[0].data.mul_(2)
    assert watched.bits() != moved


def test_weights_that_move_back_are_the_same():
    weight = nn.Parameter(torch.randn(3, 3))
    watched = replicas.Weights([weight])
    before, there = watched.bits(), weight.data
    weight.data = there.t()
    assert watched.bits() != before
    weight.data = there
    assert watched.bits() == before


def test_a_fingerprint_travels_in_a_double():
    number = replicas.fingerprint([torch.randn(10)])
    assert int(float(number)) == number
    assert float(number) != float(number + 1)


def aligned(connect):
    import torch.distributed as dist

    connect()
    rank = dist.get_rank()
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(2))
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.add_(rank)
    before = replicas.model_fingerprints(model)
    replicas.align_buffers(model)
    return before, replicas.model_fingerprints(model), int(model[0].num_batches_tracked)


def test_buffers_become_those_of_rank_0():
    (first, after, steps), *others = run_ranks(aligned, 3)
    assert first == after
    assert steps == 0
    for before, *same in others:
        assert before[0] == first[0]
        assert before[1] != first[1]
        assert same == [after, 0]


def sharded(connect):
    from torch.distributed.fsdp import fully_shard

    connect()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    fully_shard(model)
    return (replicas.model_fingerprints(model), replicas.fingerprint(model.parameters()),
            trained_model.weights_sha256(model))


def test_shards_may_differ_between_ranks_and_are_told_apart_on_one():
    (first, own, whole), (second, other, _) = run_ranks(sharded, 2)
    assert first == second
    assert own != other
    assert whole is None
