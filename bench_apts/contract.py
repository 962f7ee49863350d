"""The contract of optimizer plug-ins, by the name that plug-ins import it from.

It is defined in ``bench_apts.plugins.optimizer_contract`` and ``bench_apts.core.configuration``.
"""

from bench_apts.plugins.optimizer_contract import (
    GRADIENT_SUM,
    Backend,
    Batch,
    Build,
    Choice,
    Distribution,
    Hyperparameter,
    LogUniform,
    Loss,
    Sampling,
    Stepper,
    StepReport,
    TrafficFormula,
    Uniform,
    World,
    installed,
)

__all__ = [
    "GRADIENT_SUM", "Backend", "Batch", "Build", "Choice", "Distribution", "Hyperparameter",
    "LogUniform", "Loss", "Sampling", "StepReport", "Stepper", "TrafficFormula", "Uniform",
    "World", "installed",
]
