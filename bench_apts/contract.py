"""The contract of optimizer plug-ins, by the name that plug-ins import it from.

It is defined in ``bench_apts.plugins.optimizer_contract`` and ``bench_apts.plugins.knobs``.
"""

from bench_apts.plugins.optimizer_contract import (
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
    Uniform,
    World,
    installed,
)

__all__ = [
    "Backend", "Batch", "Build", "Choice", "Distribution", "Hyperparameter", "LogUniform", "Loss",
    "Sampling", "StepReport", "Stepper", "Uniform", "World", "installed",
]
