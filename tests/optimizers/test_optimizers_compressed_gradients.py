"""float16, PowerSGD and DeMo: bytes by hand, equal replicas, states that fit a new process."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from baseline_task import Course
from torch import nn

from bench_apts.contract import Batch, World
from bench_apts.core.errors import UserError
from bench_apts.optimizers import adam, compressed_gradients
from bench_apts.optimizers.adam import adamw

demo_matrices = pytest.importorskip("bench_apts.optimizers.demo_matrices")

PRELOAD = ["baseline_task", "pytorch_optimizer", "bench_apts.optimizers.data_parallel"]
STEPS = 6
N = 8 * 5 + 8 + 3 * 8 + 3
COURSES = {
    "adam": (adam.backend, {}),
    "fp16": (compressed_gradients.fp16, {}),
    "8 bits": (compressed_gradients.quantized, {"block": 8}),
    "2 bits": (compressed_gradients.quantized, {"bits": 2, "block": 8, "feedback": True}),
    "powersgd": (compressed_gradients.powersgd, {"columns": 1}),
    "late": (compressed_gradients.powersgd, {"columns": 1, "start": 0.04}),
    "demo": (compressed_gradients.demo, {"kept": 4}),
}


def course(ranks, name, backend, pinned):
    mine = Course(backend, ranks.rank, ranks.size, **pinned)
    return [seen(ranks, f"{name} {number}", mine) for number in range(STEPS)]


def seen(ranks, phase, mine):
    """Weights and traffic after a step."""
    ranks.meter.phase = phase
    mine.step()
    traffic = ranks.meter.snapshot().get(phase, {})
    return mine.weights(), {name: (t.calls, t.payload_bytes) for name, t in traffic.items()}


def resumed(ranks, backend, pinned):
    """Whether a fresh stepper, whose buckets are in another order, goes on to the same bits."""
    whole, again = (Course(backend, ranks.rank, ranks.size, **pinned) for _ in range(2))
    for _ in range(4):
        whole.step()
        again.batch()
    again.stepper.load_state_dict(whole.stepper.state_dict())
    for _ in range(3):
        whole.step()
        again.step()
    return np.array_equal(whole.weights(), again.weights())


def simulated(ranks):
    """Traffic of a hook that rounds gradients to 256 levels, and sends them as they are."""
    from bench_apts.optimizers.data_parallel import DataParallelStepper
    from bench_apts.optimizers.gradient_hooks import GradientHook

    def hook(_, bucket):
        values = bucket.buffer()
        scale = values.abs().max() / 127
        rounded = (values / scale).round() * scale / dist.get_world_size()
        return dist.all_reduce(rounded, async_op=True).get_future().then(
            lambda future: future.value()[0])

    mine = Course(adam.backend, ranks.rank, ranks.size)
    mine.stepper = DataParallelStepper(
        mine.model, nn.functional.cross_entropy, mine.stepper.world,
        lambda parameters: adamw(parameters, adam.backend.configure({})),
        hook=GradientHook(hook))
    return seen(ranks, "simulated", mine)[1]


def kernels(ranks, memory_format):
    """Losses and weights of DeMo on a convolution, a scalar and micro-batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(), nn.Flatten(), nn.Linear(16, 2))
    model = model.to(memory_format=memory_format)
    world = World(ranks.rank, ranks.size, torch.device("cpu"), 32, 3200, micro_batch=6)
    backend = compressed_gradients.demo
    stepper = backend.build(model, nn.functional.cross_entropy, backend.configure({"lr": 0.01}),
                            world)
    generator = torch.Generator().manual_seed(ranks.rank)
    losses = []
    for _ in range(30):
        inputs = torch.randn(16, 3, 4, 4, generator=generator)
        report = stepper.step(Batch(inputs, (inputs.mean((1, 2, 3)) > 0).long()))
        losses.append(float(report.loss))
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return losses, weights.numpy(), report.forwards


def everything(ranks):
    return {"courses": {name: course(ranks, name, *COURSES[name]) for name in COURSES},
            "resumed": {name: resumed(ranks, *COURSES[name]) for name in COURSES},
            "simulated": simulated(ranks),
            "kernels": kernels(ranks, torch.contiguous_format),
            "channels last": kernels(ranks, torch.channels_last)}


@pytest.fixture(scope="module")
def together(on_ranks):
    return on_ranks(everything, 2)


def test_all_ranks_hold_the_same_weights(together):
    one, other = together
    for name in COURSES:
        for mine, theirs in zip(one["courses"][name], other["courses"][name], strict=True):
            assert np.array_equal(mine[0], theirs[0])
    for name in ("kernels", "channels last"):
        assert np.array_equal(one[name][1], other[name][1])


@pytest.mark.parametrize(("name", "start", "expected"), [
    ("fp16", 0, {"all_reduce": (1, 2 * N)}),
    # 75 numbers in two chunks of 64, each with 8 steps of 4 bytes.
    ("8 bits", 0, {"all_to_all": (1, 2 * (64 + 32)), "all_gather": (1, 2 * (64 + 32))}),
    ("2 bits", 0, {"all_to_all": (1, 2 * (16 + 32)), "all_gather": (1, 2 * (16 + 32))}),
    # Both weights are worth compressing, (8 + 5) · 2 < 8 · 5 and (3 + 8) · 2 < 3 · 8; vectors go
    # whole, and P and Q each in a message of their own.
    ("powersgd", 2, {"all_reduce": (3, 4 * ((8 + 3) + (8 + 3) + (5 + 8)))}),
    ("late", 4, {"all_reduce": (3, 4 * 35)}),
    # 4 frequencies of each matrix and of the vector of 8, all 3 of the last; of two ranks.
    ("demo", 0, {"all_gather": (2, 2 * (4 + 4 + 4 + 3) * (4 + 8))}),
])
def test_bytes_of_a_step(together, name, start, expected):
    sent = [traffic for _, traffic in together[0]["courses"][name]]
    sent[1].pop("broadcast", None)  # DistributedDataParallel agrees on new buckets once
    assert sent == [{"all_reduce": (1, 4 * N)}] * start + [expected] * (STEPS - start)


def test_a_compression_that_is_only_simulated_sends_its_floats_and_is_billed_for_them(together):
    assert together[0]["simulated"] == {"all_reduce": (1, 4 * N)}


def test_16_and_8_bits_and_the_first_steps_of_powersgd_are_nearly_those_of_adam(together):
    courses = together[0]["courses"]
    plain = [weights for weights, _ in courses["adam"]]
    np.testing.assert_allclose(courses["fp16"][-1][0], plain[-1], atol=1e-3)
    np.testing.assert_allclose(courses["8 bits"][-1][0], plain[-1], atol=3e-3)
    np.testing.assert_allclose(courses["late"][3][0], plain[3], rtol=1e-5, atol=1e-7)
    assert np.abs(courses["powersgd"][-1][0] - plain[-1]).max() > 1e-4


def test_a_state_fits_a_stepper_that_has_taken_no_step(together):
    for rank in together:
        assert rank["resumed"] == dict.fromkeys(COURSES, True)


@pytest.mark.parametrize("name", ["kernels", "channels last"])
def test_demo_trains_convolutions_and_scalars(together, name):
    losses, weights, forwards = together[0][name]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert np.isfinite(weights).all()
    assert forwards == 3


def test_matrices_share_the_memory_of_kernels_in_any_order():
    kernel = torch.randn(4, 3, 2, 5).to(memory_format=torch.channels_last)
    matrix = demo_matrices.as_matrix(kernel)
    assert matrix.shape == (4, 30)
    matrix[1] = 0
    assert not kernel[1].any()
    assert kernel[0].all()


def test_a_hook_that_does_not_exist_is_named():
    from bench_apts.optimizers import gradient_hooks

    with pytest.raises(UserError, match="powerSGD"):
        gradient_hooks.find("powerSGD")
