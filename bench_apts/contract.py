"""The contract of optimizer plug-ins, by the name that plug-ins import it from.

It is defined in ``bench_apts.plugins.backend``, ``bench_apts.plugins.optimizer_contract`` and, of
hyperparameters, ``bench_apts.core.configuration``.
"""

from bench_apts.core.configuration import (
    Choice,
    Distribution,
    Hyperparameter,
    LogUniform,
    Uniform,
)
from bench_apts.plugins.backend import Backend, installed
from bench_apts.plugins.optimizer_contract import (
    GRADIENT_SUM,
    Batch,
    Build,
    Loss,
    Sampling,
    Stepper,
    StepReport,
    TrafficFormula,
    World,
)

__all__ = [
    "GRADIENT_SUM", "Backend", "Batch", "Build", "Choice", "Distribution", "Hyperparameter",
    "LogUniform", "Loss", "Sampling", "StepReport", "Stepper", "TrafficFormula", "Uniform",
    "World", "installed",
]
