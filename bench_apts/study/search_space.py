"""Which configurations a search tries: Optuna's samplers, a grid, or the optimizer's own list."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from typing import TYPE_CHECKING

from bench_apts.core.configuration import Choice, LogUniform, Uniform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    from bench_apts.core.configuration import Hyperparameter
    from bench_apts.core.spec import Sampler, Scalar, Space
    from bench_apts.plugins.backend import Backend

ORDERED = "configuration"
"""What Optuna knows an ordered configuration by: its place in the list."""


def draw_configurations(
    backend: Backend, pinned: Mapping[str, Scalar], count: int, seed: int,
    sampler: Sampler = "random", space: Space = "narrow",
) -> list[dict[str, Scalar]]:
    """Draw configurations from the optimizer's own search space, independent of results.

    With ``random`` (independent draws) and ``halton`` (scrambled) the k-th depends on seed and
    space alone, so a study with more trials begins with those of a smaller one. A ``grid`` is
    made for its number of trials and shuffled. An optimizer's ordered configurations replace all
    of these, in their order.

    Args:
        backend: Whose space is searched.
        pinned: Hyperparameters that the user fixed; they are not searched.
        count: How many configurations.
        seed: Seed of the sampler.
        sampler: Any but ``tpe``, which learns from what it tried.
        space: ``wide`` for the optimizer's wide space, if it has one.

    Returns:
        Full configurations; a single one if there is nothing to search, and no more than there
        are ordered ones or points of the grid.
    """
    searched = backend.searched(pinned, space)
    if not searched:
        return [backend.configure(pinned)]
    if backend.ordered:
        asked: list[dict[str, Scalar]] = [{ORDERED: k} for k in range(len(backend.ordered))]
    elif sampler == "grid":
        asked = _grid(searched, count, seed)
    else:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=sampler_of(sampler, seed))
        known = optuna_distributions(backend, searched)
        asked = [study.ask(known).params for _ in range(count)]
    return [full_configuration(backend, pinned, params) for params in asked[:count]]


def full_configuration(
    backend: Backend, pinned: Mapping[str, Scalar], params: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """Return the full configuration that Optuna's parameters of a trial stand for."""
    if backend.ordered:
        params = backend.ordered[int(params[ORDERED])]
    return backend.configure({**params, **pinned})


def optuna_distributions(
    backend: Backend, searched: Mapping[str, Hyperparameter]
) -> dict[str, BaseDistribution]:
    """Return a search space as Optuna knows it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if backend.ordered:
        return {ORDERED: CategoricalDistribution(tuple(range(len(backend.ordered))))}
    known: dict[str, BaseDistribution] = {}
    for name, knob in searched.items():
        if isinstance(knob.search, Choice):
            known[name] = CategoricalDistribution(knob.search.options)
        elif knob.search is not None:
            low, high, log = (knob.search.low, knob.search.high,
                              isinstance(knob.search, LogUniform))
            known[name] = (IntDistribution(int(low), int(high), log=log)
                           if isinstance(knob.default, int)
                           else FloatDistribution(low, high, log=log))
    return known


def sampler_of(name: Sampler, seed: int) -> BaseSampler:
    """Make one of Optuna's samplers."""
    from optuna import samplers

    seed %= 2**32
    if name == "tpe":
        return samplers.TPESampler(seed=seed)
    if name == "halton":
        with warnings.catch_warnings():  # Optuna may still change its interface
            warnings.simplefilter("ignore")
            return samplers.QMCSampler(qmc_type="halton", scramble=True, seed=seed)
    return samplers.RandomSampler(seed=seed)


def _grid(
    searched: Mapping[str, Hyperparameter], count: int, seed: int
) -> list[dict[str, Scalar]]:
    """A grid of at most ``count`` points, with as many along each range as there is room for."""
    options = {name: knob.search.options for name, knob in searched.items()
               if isinstance(knob.search, Choice)}
    ranges = {name: knob for name, knob in searched.items()
              if isinstance(knob.search, LogUniform | Uniform)}
    room = count / math.prod(len(values) for values in options.values())
    along = max(1, math.floor(room ** (1 / len(ranges)) + 1e-9)) if ranges else 1
    axes: dict[str, tuple[Scalar, ...]] = options | {
        # Fewer integers than parts are tried once each.
        name: tuple(dict.fromkeys(_between(knob, (i + 0.5) / along) for i in range(along)))
        for name, knob in ranges.items()}
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    random.Random(seed).shuffle(points)
    return points


def _between(knob: Hyperparameter, share: float) -> float:
    """Return the value at a share of the way through a range; the nearest integer of integers."""
    search = knob.search
    assert isinstance(search, LogUniform | Uniform)
    if isinstance(search, LogUniform):
        value = math.exp((1 - share) * math.log(search.low) + share * math.log(search.high))
    else:
        value = (1 - share) * search.low + share * search.high
    return round(value) if isinstance(knob.default, int) else value
