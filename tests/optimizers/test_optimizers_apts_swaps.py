"""APTS and what moves a model's tensors between steps: it goes on as Adam does, or says why."""

import copy
import functools

import pytest
import torch
from swap_task import APTS_VARIANTS, MAKE, Training
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from bench_apts.optimizers.apts import APTS, RankError

PRELOAD = ["swap_task"]

both = pytest.mark.parametrize("variant", APTS_VARIANTS)


def assign_data(model):
    for p in model.parameters():
        p.data = p.data.clone()


def assign_gradients(model):
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)


def assign_gradients_data(model):
    for p in model.parameters():
        if p.grad is not None:
            p.grad.data = torch.full_like(p, 7.0)


def use_set(model):
    with torch.no_grad():
        for p in model.parameters():
            p.set_(p.clone())


def other_strides(model):
    """Of the same memory: a square weight is transposed where it lies, then back in value."""
    weight = model[4].weight
    weight.data = weight.data.t().contiguous().t()


def swap_tensors(model):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
        model.float()
        model.load_state_dict(copy.deepcopy(model.state_dict()))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def exchange(model):
    """Two tensors change places and back, but in other memory."""
    a, b = model[0].bias, model[1].bias
    a.data, b.data = b.data, a.data
    a.data, b.data = b.data.clone(), a.data.clone()


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


class Nothing(nn.Module):
    def forward(self, weight):
        return weight


HARMLESS = {
    "double and back": lambda model: model.double().float(),
    "cpu": lambda model: model.cpu(),
    "channels_last": lambda model: model.to(memory_format=torch.channels_last),
    "channels_last and back": lambda model: model.to(
        memory_format=torch.channels_last).to(memory_format=torch.contiguous_format),
    "p.data": assign_data,
    "p.grad": assign_gradients,
    "p.grad.data": assign_gradients_data,
    "p.grad None": lambda model: model.zero_grad(),
    "set_": use_set,
    "strides": other_strides,
    "swap_tensors": swap_tensors,
    "exchange": exchange,
    "share_memory": lambda model: model.share_memory(),
    "load_state_dict": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict())),
    "vector_to_parameters": lambda model: nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(model.parameters()).clone(), model.parameters()),
    "deepcopy": copy.deepcopy,
    "parametrize": lambda model: parametrize.register_parametrization(
        model[4], "weight", Nothing()),
    "prune": lambda model: prune.identity(model[4], "weight"),
}
"""Changes that keep every value: training goes on as if nothing had happened."""


@functools.cache
def undisturbed(name):
    return Training(name).steps(24)


@pytest.mark.parametrize("swap", HARMLESS.values(), ids=HARMLESS)
@pytest.mark.parametrize("name", MAKE)
def test_training_goes_on_as_if_nothing_had_happened(name, swap):
    expected, moved = undisturbed(name), Training(name)
    losses = []
    for _ in range(4):
        losses += moved.steps(6)
        swap(moved.model)
    if name in APTS_VARIANTS and "channels" not in swap.__name__:
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
        moved.assert_shown()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("swap", [lambda m: m.half().float(), lambda m: m.bfloat16().float()],
                         ids=["half", "bfloat16"])
@pytest.mark.parametrize("name", MAKE)
def test_rounded_weights_are_taken_over(name, swap):
    training = Training(name)
    losses = training.steps(12)
    swap(training.model)
    losses += training.steps(12)
    assert losses[-1] < 0.8 * losses[0]
    if name in APTS_VARIANTS:
        training.assert_shown()


@both
def test_a_16_bit_model_keeps_its_float32_values_through_a_conversion(variant):
    plain, moved = (Training(variant, lambda model: model.bfloat16()) for _ in range(2))
    for each in (plain, moved):
        each.inputs = each.inputs.bfloat16()
    for _ in range(3):
        assert plain.steps(4) == moved.steps(4)
        moved.model.float().bfloat16()
    assert torch.equal(plain.optimizer._flat.values, moved.optimizer._flat.values)


@pytest.mark.parametrize("swap", HARMLESS.values(), ids=HARMLESS)
@both
def test_a_state_is_exact_after_a_swap(variant, swap):
    straight = Training(variant)
    straight.steps(9)
    swap(straight.model)
    straight.steps(4)
    resumed = Training(variant)
    if "parametrizations" in "".join(dict(straight.model.named_modules())) \
            or hasattr(straight.model[4], "weight_orig"):
        swap(resumed.model)
    resumed.model.load_state_dict(straight.model.state_dict())
    resumed.optimizer.load_state_dict(straight.optimizer.state_dict())
    assert straight.steps(20) == resumed.steps(20)
    assert torch.equal(straight.weights(), resumed.weights())


CONVERTED = {
    "double": lambda model: model.double(),
    "half": lambda model: model.half(),
    "shape": lambda model: setattr(model[4].weight, "data", model[4].weight.data[:2]),
    "frozen": lambda model: model[0].requires_grad_(False),
    "tied": lambda model: setattr(model[1].bias, "data", model[1].weight.data),
    "expanded": lambda model: setattr(model[1].bias, "data", torch.zeros(1).expand(8)),
}


@pytest.mark.parametrize("swap", CONVERTED.values(), ids=CONVERTED)
@both
def test_another_model_is_an_error_and_the_old_one_goes_on(variant, swap):
    training = Training(variant)
    losses = training.steps(6)
    kept = copy.deepcopy(training.model.state_dict())
    tensors = [(p, p.data) for p in training.model.parameters()]
    swap(training.model)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"APTS|share memory|clone"):
            training.step()
    for p, data in tensors:
        p.data = data
        p.requires_grad_()
    training.model.float().load_state_dict(kept)
    losses += training.steps(18)
    assert losses[-1] < 0.8 * losses[0]
    training.assert_shown()


@both
def test_what_was_frozen_is_not_silently_left_out_later(variant):
    training = Training(variant, lambda model: model[0].requires_grad_(False))
    training.steps(2)
    training.model[0].requires_grad_(True)
    with pytest.raises(ValueError, match="frozen when"):
        training.step()


def overwrite(model):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def assigned(model):
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


REPLACED = {
    "overwrite": overwrite,
    "assign": assigned,
    "meta": lambda model: model.to("meta").to_empty(device="cpu").load_state_dict(
        Training("sgd").model.state_dict()),
}


@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
@both
def test_a_model_that_holds_other_parameters_is_an_error(variant, replace):
    training = Training(variant)
    training.steps(3)
    replace(training.model)
    with pytest.raises(RuntimeError, match="make a new APTS"):
        training.step()
    training.optimizer = MAKE[variant](training.model)
    losses = training.steps(20)
    assert losses[-1] < 0.8 * losses[0]


@both
def test_training_a_copy_is_an_error(variant):
    training = Training(variant)
    training.steps(3)
    training.model = copy.deepcopy(training.model)
    with pytest.raises(RuntimeError, match="make a new APTS"):
        training.step()


@both
def test_one_layer_with_other_parameters_is_a_warning_that_names_the_old_ones(variant):
    training = Training(variant)
    training.steps(3)
    parametrizations.weight_norm(training.model[4])
    with pytest.warns(UserWarning, match=r"4\.weight") as caught:
        training.steps(5)
    assert len(caught) == 1


@both
def test_buffers_that_a_conversion_replaces(variant):
    """``model.buffers`` finds the new ones; a list of the old ones is an error."""
    training = Training(variant)
    training.steps(2)
    training.model.double().float()
    statistics = training.model[1].running_mean
    assert any(b is statistics for b in training.optimizer._flat._find())
    training.optimizer = APTS(training.model.parameters(), buffers=training.model.buffers(),
                              variant=variant, **{"samples": 9600} if variant != "paper" else {})
    training.steps(2)
    del statistics
    training.model.double().float()
    with pytest.raises(RuntimeError, match=r"buffers=model\.buffers"):
        training.step()


def creates_graph(training):
    losses = nn.functional.cross_entropy(
        training.model(training.inputs), training.targets, reduction="none")
    losses.mean().backward(create_graph=True)
    return losses


def assigns(training):
    losses = nn.functional.cross_entropy(
        training.model(training.inputs), training.targets, reduction="none")
    parameters = list(training.model.parameters())
    for p, g in zip(parameters, torch.autograd.grad(losses.mean(), parameters), strict=True):
        p.grad = g
    return losses


def swaps_within(training):
    training.model.double().float()
    return training.closure()


def swaps_after(training):
    losses = training.closure()
    training.model.double().float()
    return losses


CLOSURES = {"zero_grad": lambda training: (training.model.zero_grad(), training.closure())[1],
            "create_graph": creates_graph, "autograd.grad": assigns, "swaps first": swaps_within,
            "swaps last": swaps_after}


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("called", CLOSURES.values(), ids=CLOSURES)
@both
def test_closures_that_put_gradients_or_parameters_elsewhere(variant, called):
    plain, other = Training(variant), Training(variant)
    for _ in range(12):
        expected = plain.step()
        loss = other.optimizer.step(
            lambda backward: called(other) if backward else other.closure(False))
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(plain.weights(), other.weights(), rtol=1e-4, atol=1e-6)
    assert all(p.grad.grad_fn is None for p in other.model.parameters())


# --- layouts -------------------------------------------------------------------------------------


@both
def test_channels_last_weights_stay_so_and_train_alike(variant):
    plain = Training(variant)
    other = Training(variant, lambda model: model.to(memory_format=torch.channels_last))
    for _ in range(10):
        assert other.step() == pytest.approx(plain.step(), rel=1e-4)
    weight = other.model[0].weight
    for tensor in (weight, weight.grad):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()
    with pytest.raises(ValueError, match="memory format"):
        plain.optimizer.load_state_dict(other.optimizer.state_dict())


@both
def test_a_parameter_that_is_not_contiguous_keeps_its_order(variant):
    def turned(model):
        model[4].weight = nn.Parameter(model[4].weight.detach().t().contiguous().t())
        model[0].bias = nn.Parameter(torch.zeros(16)[::2])

    plain, other = Training(variant), Training(variant, turned)
    with torch.no_grad():
        plain.model[0].bias.zero_()
    for _ in range(5):
        assert other.step() == pytest.approx(plain.step(), rel=1e-4)
    assert other.model[4].weight.stride() == (1, 3)
    assert other.model[0].bias.stride() == (1,)


# --- several ranks -------------------------------------------------------------------------------


def swapped_on_one_rank(ranks, name):
    """What is kept there changes nothing; what is converted there, all ranks learn of."""
    training = Training(name)
    training.inputs = training.inputs + ranks.rank
    training.steps(3)
    if ranks.rank:
        training.model.double().float()
    training.steps(3)
    weights, statistics = training.weights(), training.model[1].running_mean.clone()
    if ranks.rank:
        training.model.double()
    with pytest.raises(RankError) as caught:
        training.steps(40)  # to the end of a round
    return (weights.numpy(), statistics.numpy(), str(caught.value),
            type(caught.value.__cause__).__name__)


@both
def test_a_swap_on_one_rank_does_not_hang_the_others(on_ranks, variant):
    (weights, statistics, message, cause), other = on_ranks(swapped_on_one_rank, 2, variant)
    assert (weights == other[0]).all()
    assert (statistics == other[1]).all()
    assert message == other[2] == "the closure failed on rank 1"
    assert (cause, other[3]) == ("NoneType", "ValueError")
