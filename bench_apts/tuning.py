"""Tuning: asks Optuna for hyperparameters and freezes the best; the bill is in the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.contract import Backend, Choice, Hyperparameter, LogUniform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.distributions import BaseDistribution

    from bench_apts.spec import Scalar


def draws(
    backend: Backend, pinned: Mapping[str, Scalar], count: int, seed: int
) -> list[dict[str, Scalar]]:
    """Draws configurations independently from the optimizer's own search space.

    The k-th draw depends on the seed and the space alone, so a study with more trials begins
    with those of a smaller one.

    Args:
        backend: Whose space is searched.
        pinned: Hyperparameters that the user fixed; they are not searched.
        count: How many configurations.
        seed: Seed of the sampler.

    Returns:
        Full configurations; a single one if there is nothing to search.
    """
    space = backend.searched(pinned)
    if not space:
        return [backend.configure(pinned)]
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed % 2**32))
    distributions = {name: _distribution(knob) for name, knob in space.items()}
    return [backend.configure({**pinned, **study.ask(distributions).params})
            for _ in range(count)]


def _distribution(knob: Hyperparameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(knob.search, Choice):
        return CategoricalDistribution(knob.search.options)
    assert knob.search is not None
    return FloatDistribution(
        knob.search.low, knob.search.high, log=isinstance(knob.search, LogUniform))
