"""The trust-region backends: APTS and, with one subdomain, the plain trust-region method."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench_apts.contract import (
    Backend,
    Batch,
    Build,
    Hyperparameter,
    Loss,
    Sampling,
    Stepper,
    StepReport,
    TrafficFormula,
    World,
)
from bench_apts.optimizers.presets import (
    DIRECTIONS,
    PRESETS,
    PRIOR,
    SAMPLING,
    SEARCHES,
    SOLVERS,
    STOCHASTIC_BACKEND,
    STOCHASTIC_PRESETS,
)
from bench_apts.optimizers.quantized_layout import Layout, message
from bench_apts.plugins.state_copies import copied

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

SHOWN = ("radius", "rho", "accepted", "global_rho", "global_accepted", "predicted_reduction",
         "actual_reduction", "best_length", "overshoot", "at_bound")
"""Diagnostics of the optimizer that go into the records, besides ``judged`` (whether the step was)
and ``local_passes`` (so far, of both kinds)."""

TRUST_REGION = {
    "preset": Hyperparameter(
        "paper", "the authors' settings: as of the paper, with what their code did besides, or "
        "as of 2026; the rest overrides it",
        options=tuple(PRESETS)),
    "radius": Hyperparameter(0.01, "initial trust-region radius", above=0),
    "min_radius": Hyperparameter(1e-3, "lower bound of the radius", least=0),
    "max_radius": Hyperparameter(4.0, "upper bound of the radius", above=0),
    "accept": Hyperparameter(0.25, "smallest ratio of a step that is kept, at most 0.25", least=0),
    "shrink": Hyperparameter(0.5, "factor on the radius after a poor step", above=0),
    "grow": Hyperparameter(2.0, "factor on the radius after a good step", least=1),
    "norm": Hyperparameter("l2", "norm of the trust region", options=("l2", "linf")),
    "global_solver": Hyperparameter(
        "first-order", "model and step on the global loss", options=SOLVERS),
    "memory": Hyperparameter(5, "pairs of steps and gradients that L-SR1 holds", least=1),
    "retries": Hyperparameter(0, "shorter steps tried where one is refused", least=0),
    "window": Hyperparameter(
        1, "losses whose largest a step must improve on; 1 is monotone", least=1),
    "minibatch": Hyperparameter(
        0, "samples of all ranks per iteration, rounded down to a multiple of N; 0: the suite's",
        least=0),
    "growth": Hyperparameter(1.0, "factor on the minibatch after each epoch", least=1),
}

PAPER = TRUST_REGION | {
    "local_iterations": Hyperparameter(
        5, "local trust-region iterations per outer iteration", least=0),
    "local_shrink": Hyperparameter(0.5, "factor on the local radius after a poor step", least=0),
    "local_grow": Hyperparameter(2.0, "factor on the local radius after a good step", least=1),
    "local_low": Hyperparameter(0.25, "ratio below which a local step is poor", least=0),
    "local_high": Hyperparameter(0.75, "ratio above which a local step is good", least=0),
    "solver": Hyperparameter(
        "first-order", "model and step on the local losses", options=SOLVERS),
    "consistency": Hyperparameter(
        "gradient", "what the first-order correction enters", options=("gradient", "value")),
    "capped": Hyperparameter(True, "bound the sum of a rank's local steps, not each alone"),
    "global_pass": Hyperparameter(True, "end with an iteration on the global loss"),
    "overlap": Hyperparameter(
        0.0, "samples of the next ranks that a rank sees too, as a share of its own", least=0),
}

_MESSAGE = message(4, feedback=False)

STOCHASTIC = {
    "preset": Hyperparameter(
        "current", "these defaults, or those of the numbers of November 2026; the rest overrides "
        "it", options=tuple(STOCHASTIC_PRESETS)),
    "minibatch": Hyperparameter(2, "fewest fresh samples of one rank per local step", least=1),
    "pooled": Hyperparameter(
        0, "fewest fresh samples of all ranks per local step; 0: the suite's global batch",
        least=0),
    "radius": Hyperparameter(0.0, "a fixed radius; 0 lets the method find its own", least=0),
    "start": Hyperparameter(PRIOR, "where that search begins", least=0),
    "search": Hyperparameter(
        "drift", "whether the way of the weights moves the radius, or a start-up from below and "
        "tests", options=SEARCHES),
    "judge": Hyperparameter(True, "judge steps on fresh minibatches"),
    "schedule": Hyperparameter(True, "shrink steps to 0 over the second half of the budget"),
    "finish": Hyperparameter(
        0.0, "share of the budget after which the method learns its length; 0: at once", least=0,
        below=1),
    "direction": Hyperparameter(
        "auto", "of local steps; muon: orthogonalised for matrices between the first layer and "
        "the last; auto: muon for networks with normalisation layers, else adam",
        options=("auto", *DIRECTIONS)),
    "longest_round": Hyperparameter(4, "most local steps between two averages", least=1),
    "rounds_per_length": Hyperparameter(16, "rounds before their length doubles", least=1),
    "sharing": Hyperparameter(
        0.5, "share of the first moment that a round replaces by the ranks' mean", least=0),
    "bits": replace(_MESSAGE["bits"], meaning="bits of a number in a displacement's message, and "
                    "at least 8 in a gradient's; 32 for all-reduces"),
    "block": _MESSAGE["block"],
    "test_interval": Hyperparameter(
        0, "local steps between tests after a fifth of the budget; 0 for 128 / longest_round, "
        "8 to 32", least=0),
}


class TrustRegionStepper:
    """An ``APTS`` on this rank's share of each minibatch."""

    def __init__(
        self, model: torch.nn.Module, loss: Loss, world: World, variant: str,
        settings: Mapping[str, Any], finish: tuple[float, float] | None = None,
        direction: str = "adam",
    ) -> None:
        from bench_apts.optimizers.apts import APTS

        self.model, self.loss, self.world = model, loss, world
        # The published method needs means alone: all shards of the harness are equal.
        self.reduction = "mean" if variant == "paper" else "none"
        self.optimizer = APTS(
            model.parameters() if direction == "adam" else muon_groups(model, direction),
            variant=variant, buffers=model.buffers(), **settings)
        # Samples of this rank before ``finish`` is called, and those left then.
        self.finish = finish
        self.seen = self.local_passes = 0

    def step(self, batch: Batch) -> StepReport:
        """Do one step of the method; all its passes are over the same share."""
        from bench_apts.plugins import micro_batches
        from bench_apts.plugins.randomness import Redraw

        parts = micro_batches.parts(batch, self.world.micro_batch)
        # A ratio of reductions compares losses of one network: dropout masks must not change.
        redraw, passed = Redraw(self.world.device), False

        def closure(backward: bool) -> torch.Tensor:
            nonlocal passed
            if passed:
                redraw.again()
            passed = True
            return self._losses(parts, backward)

        if self.finish and self.seen >= self.finish[0]:
            self.optimizer.finish(sum(self.finish) - self.seen)
            self.finish = None
        loss = self.optimizer.step(closure)
        last = self.optimizer.last
        self.seen += last["forwards"] * len(batch.targets)
        self.local_passes += last["local_passes"]
        shown = {name: last[name] for name in SHOWN if name in last}
        total = None
        if "forwards_beyond" in last:
            mean = last["forwards"] + last["forwards_beyond"]
            total = round(mean * self.world.size) * len(batch.targets)
        return StepReport(
            loss, last["forwards"] * len(batch.targets), last["forwards"] * len(parts),
            last["backwards"] * len(parts), total, agreed=last.get("agreed", True),
            diagnostics=shown | {"judged": "accepted" in last,
                                 "local_passes": self.local_passes})

    def _losses(self, parts: list[tuple[Batch, float]], backward: bool) -> torch.Tensor:
        """Return the losses of all parts of a batch, and add the gradient of their mean."""
        import torch

        found: list[torch.Tensor] = []
        for part, share in parts:
            losses = self.loss(self.model(part.inputs), part.targets, reduction=self.reduction)
            if backward:
                mean = losses.mean()
                (mean if len(parts) == 1 else mean * share).backward()
            found.append(losses.detach())
        if len(found) == 1:
            return found[0]
        if self.reduction == "none":
            return torch.cat(found)
        shares = torch.tensor([share for _, share in parts], device=found[0].device)
        return torch.stack(found) @ shares.to(found[0])

    def state_dict(self) -> dict[str, Any]:
        """Return copies of weights, buffers and the optimizer's state."""
        return copied(
            {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
             "local_passes": self.local_passes, "seen": self.seen, "finish": self.finish})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.local_passes, self.seen = state["local_passes"], state["seen"]
        self.finish = state["finish"]

    def evaluation_model(self) -> torch.nn.Module:
        """Return the model, the same on every rank wherever a step reports ``agreed``."""
        return self.model


_SAMPLING = ("minibatch", "overlap", "growth")
"""Hyperparameters that decide which samples a rank gets, not what is done with them."""


def _paper(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World, **fixed: Any
) -> Stepper:
    settings = {key: value for key, value in values.items() if key not in _SAMPLING}
    return TrustRegionStepper(model, loss, world, "paper", settings | fixed)


def _sampling(values: Mapping[str, Any]) -> Sampling:
    return Sampling(values.get("overlap", 0.0), values["growth"])


def stochastic(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build APTS-S; ``values`` are those of ``STOCHASTIC``."""
    settings = {key: value for key, value in values.items()
                if key not in ("minibatch", "pooled", "finish", "direction")}
    samples = max(1, world.budget_samples // world.size)
    finish = None
    if values["finish"]:
        finish = values["finish"] * samples, (1 - values["finish"]) * samples
    else:
        settings["samples"] = samples
    return TrustRegionStepper(
        model, loss, world, "stochastic", settings, finish, values["direction"])


def muon_groups(model: torch.nn.Module, direction: str) -> list[dict[str, Any]]:
    """Return parameter groups: matrices of hidden layers in Muon's direction, and all others.

    A matrix that reads the inputs is not one of them: with it, two small MLPs lost two points
    and more. With "auto" only networks with normalisation layers have some: transformers and a
    ResNet gained, where MLPs lost a point on minibatches of few samples (measured, docs/apts.md).
    """
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase

    from bench_apts.plugins.roles import roles

    role, named = roles(model), dict(model.named_parameters())
    hidden = [name for name in named if role[name] == "matrix"]
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    if not kinds & {nn.Embedding, nn.EmbeddingBag}:
        hidden = hidden[1:]
    normalizations = {nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase}
    if direction == "auto" and not kinds & normalizations:
        hidden = []
    others = [p for name, p in named.items() if name not in hidden]
    groups: list[dict[str, Any]] = [{"params": others}]
    if hidden:
        groups.append({"params": [named[name] for name in hidden], "direction": "muon"})
    return groups


def _minibatch(suite_batch: int, values: Mapping[str, Any], ranks: int) -> int:
    wanted = int(values["minibatch"])
    return wanted // ranks * ranks if wanted else suite_batch


def per_rank(suite_batch: int, values: Mapping[str, Any], ranks: int) -> int:
    """Return the global batch of APTS-S: that of each rank times their number.

    By default the suite's, as for other optimizers: with fewer, larger steps short trainings of
    transformers ended far behind (measured, docs/apts.md).
    """
    pooled = int(values["pooled"]) or suite_batch
    each: int = max(int(values["minibatch"]), math.ceil(pooled / ranks))
    return each * ranks


SOURCES = ("bench_apts.optimizers.apts", "bench_apts.optimizers.presets",
           "bench_apts.optimizers.quantized_mean", "bench_apts.optimizers.quantized_layout",
           "bench_apts.plugins.roles")
"""Modules that decide what APTS-S does."""

LOCAL_STEPS = TrafficFormula("2f·P", "round", lambda n, _: {"all_reduce": 4 * n})
"""One all-reduce of n floats after some local steps."""

SHORT_ROUNDS = TrafficFormula(
    "f·(P + P/32)/4", "round", lambda n, ranks: Layout(n, ranks, 4, 256).payloads_with(1),
    note="sends twice as much in its first 16 rounds, of one step; pads chunks to 32 numbers; "
    "sends 12 bytes of each rank more over half of the budget, 24 where it judges a point",
    where={"bits": 4, "block": 256, "rounds_per_length": 16},
    first=16, first_payloads=lambda n, ranks: Layout(n, ranks, 8, 256).payloads_with(1))
"""One mean of n numbers in 4 bits after some local steps, before in 8 bits after each step."""

apts = Backend(
    name="apts",
    summary="APTS-S: stochastic local phases under a trust region judged on fresh minibatches",
    hyperparameters=STOCHASTIC,
    build=stochastic,
    tuning_free=True,
    batch_size=per_rank,
    sources=SOURCES,
    family="APTS",
    presets={preset: values | STOCHASTIC_BACKEND[preset]
             for preset, values in STOCHASTIC_PRESETS.items() if values},
    traffic=SHORT_ROUNDS,
    developed_on=("digits", "mnist", "mnist-cnn", "cifar10", "cifar10-resnet8", "text-char",
                  "shakespeare-char", "mqar"),
)

_DECOMPOSED = TrafficFormula(
    "2f·(3P + 16)", "step", lambda n, _: {"all_reduce": 4 * (3 * n + 4)},
    note="sends 4 bytes more where it may retry steps, and for each that all ranks do")
"""The published APTS: 3n + 4 floats in four all-reduces."""

_TRUST_REGION = TrafficFormula("2f·(P + 8)", "step", lambda n, _: {"all_reduce": 4 * (n + 2)})
"""Gradient and loss in one all-reduce, the trial point's loss in another."""


def _published(
    name: str,
    summary: str,
    hyperparameters: Mapping[str, Hyperparameter],
    build: Build = _paper,
    traffic: TrafficFormula = _DECOMPOSED,
) -> Backend:
    return Backend(
        name=name,
        summary=summary,
        hyperparameters=hyperparameters,
        build=build,
        tuning_free=True,
        batch_size=_minibatch,
        sampling=_sampling,
        presets={
            preset: {key: value for key, value in (values | SAMPLING.get(preset, {})).items()
                     if key in hyperparameters}
            for preset, values in PRESETS.items() if values},
        sources=("bench_apts.optimizers.apts", "bench_apts.optimizers.presets"),
        rank_invariant=traffic is _TRUST_REGION,
        traffic=traffic,
    )


apts_paper = _published(
    "apts-paper",
    "APTS as published (arXiv 2502.05133): first-order, L-SR1 or TR-Adam local solvers",
    PAPER)

napts = _published(
    "napts",
    "the published APTS with non-monotone acceptance, as in NAPTS (arXiv 2605.14860)",
    PAPER | {"window": Hyperparameter(5, "losses whose largest a step must improve on", least=1)})

tr = _published(
    "tr",
    "trust-region method: the published APTS with one subdomain",
    TRUST_REGION, partial(_paper, local_iterations=0), _TRUST_REGION)
