"""Muon for hidden matrices and AdamW for all other parameters, data-parallel.

Jordan et al., Muon (2024, https://kellerjordan.github.io/posts/muon); with ``scale=adam`` after
Liu et al., Muon is Scalable for LLM Training, arXiv 2502.16982: an update has the root mean square
of AdamW's, so that one learning rate serves both, and tuning turns as many knobs as ``adam``'s.

Which parameters are hidden matrices ``bench_apts.plugins.roles`` says. The code is that of
``pytorch_optimizer``, which takes kernels of convolutions as matrices of their first dimension and
the product of the others; ``torch.optim.Muon`` refuses them (pytorch #166209), and distributed
variants that share the matrices out among ranks fail over gloo (#156627): here every rank
orthogonalises all of them. The iteration runs in bfloat16, which rounds coarsely, so that N ranks
and one differ by more than for other methods.

``muon-frozen`` is AlgoPerf's self-tuning submission ``self_tuning/muon_torch`` (mlcommons/
submissions_algorithms, branch ``a100_scoring``, June 2026; score 0.423): the last layer's weights
are Muon's as well, and AdamW has the same learning rate. Its dropout and label smoothing belong to
the workload and are left out. It scales kernels by their first two dimensions alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts.contract import (
    GRADIENT_SUM,
    Backend,
    Hyperparameter,
    LogUniform,
    Loss,
    Stepper,
    Uniform,
    World,
)
from bench_apts.optimizers import schedule
from bench_apts.optimizers.adam import HYPERPARAMETERS
from bench_apts.optimizers.frozen import frozen
from bench_apts.optimizers.schedule import WARMUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch


def optimizers(
    model: torch.nn.Module, named: Iterable[tuple[str, torch.nn.Parameter]],
    values: Mapping[str, Any],
) -> list[torch.optim.Optimizer]:
    """Make Muon and AdamW of a model's parameters, as far as there are parameters for each."""
    import torch
    from pytorch_optimizer import Muon

    from bench_apts.plugins.roles import roles

    role = roles(model)
    wanted = {"matrix", "head"} if values["heads"] else {"matrix"}
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in named:
        (matrices if role[name] in wanted else others).append(parameter)
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(Muon(
            [{"params": matrices, "use_muon": True}], lr=values["lr"],
            momentum=values["momentum"], weight_decay=values["weight_decay"],
            use_adjusted_lr=values["scale"] == "adam"))
    if others:
        made.append(torch.optim.AdamW(
            others, lr=values["lr"] * values["ratio"], weight_decay=values["weight_decay"],
            betas=(values["beta1"], values["beta2"])))
    return made


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build Muon and AdamW under DistributedDataParallel."""
    from bench_apts.optimizers.data_parallel import DataParallelStepper

    return DataParallelStepper(
        model, loss, world, lambda named: optimizers(model, named, values),
        schedule.find(values), named=True)


backend = Backend(
    name="muon",
    summary="Muon for hidden matrices, AdamW for the rest (DistributedDataParallel)",
    hyperparameters={
        **HYPERPARAMETERS,
        "beta1": Hyperparameter(0.9, "AdamW: decay of the first moment", least=0, below=1),
        "beta2": Hyperparameter(0.95, "AdamW: decay of the second moment", least=0, below=1),
        "momentum": Hyperparameter(0.95, "Muon: decay of the first moment",
                                   wide=Uniform(0.8, 0.98), least=0, below=1),
        "ratio": Hyperparameter(1.0, "learning rate of AdamW over that of Muon",
                                wide=LogUniform(0.1, 10.0), above=0),
        "scale": Hyperparameter(
            "adam", "factor on the update of r x c: adam, 0.2 sqrt(max(r, c)); spectral, "
            "sqrt(max(1, r / c))", options=("adam", "spectral")),
        "heads": Hyperparameter(False, "whether the last layer's weights are Muon's too"),
        "warmup": WARMUP,
    },
    build=build,
    requires=("pytorch_optimizer",),
    install="bench-apts[rivals]",
    rank_invariant=True,
    traffic=GRADIENT_SUM,
    sources=("pytorch_optimizer.optimizer.muon", "pytorch_optimizer.optimizer.utils.matrix",
             "bench_apts.optimizers.data_parallel", "bench_apts.optimizers.schedule",
             "bench_apts.optimizers.adam", "bench_apts.plugins.roles"),
)

muon_frozen = frozen(
    backend, "muon-frozen",
    "Muon and AdamW, frozen at AlgoPerf's submission of 2026 (DistributedDataParallel)",
    lr=0.01, momentum=0.9, beta2=0.999, scale="spectral", heads=True, warmup=0.05)
