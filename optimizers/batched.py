"""Baselines whose tuning also chooses the minibatch: the suite's, half, twice or four times it.

An optimizer that draws larger minibatches than a suite's does more work in a step and fewer steps
in a budget of samples. A baseline that is held to the suite's minibatch cannot answer that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Choice, Hyperparameter
from bench_apts.optimizers import adam as _adam
from bench_apts.optimizers import sgd as _sgd

if TYPE_CHECKING:
    from collections.abc import Mapping

FACTORS = (0.5, 1.0, 2.0, 4.0)
"""Of the suite's global minibatch."""


def scaled(suite_batch: int, values: Mapping[str, Any], ranks: int) -> int:
    """Return the global minibatch that a factor asks for, in equal whole shares.

    Args:
        suite_batch: The suite's global minibatch.
        values: All hyperparameters, ``batch`` among them.
        ranks: World size N.
    """
    share: int = max(1, round(suite_batch * values["batch"] / ranks))
    return ranks * share


def _batched(backend: Backend, name: str, summary: str) -> Backend:
    return replace(
        backend, name=name, summary=summary,
        hyperparameters={**backend.hyperparameters, "batch": Hyperparameter(
            1.0, "global minibatch over the suite's", Choice(FACTORS))},
        batch_size=scaled, sources=(*backend.sources, __name__))


adam = _batched(_adam.backend, "adam-batch", "AdamW as adam, its tuning chooses the minibatch too")
sgd = _batched(_sgd.backend, "sgd-batch", "SGD as sgd, its tuning chooses the minibatch too")
