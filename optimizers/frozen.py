"""An optimizer of the same code as another one, at fixed settings and without tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench_apts.contract import Backend
    from bench_apts.core.spec import Scalar


def frozen(backend: Backend, name: str, summary: str, /, **defaults: Scalar) -> Backend:
    """Return a backend that is tuning-free: no knob is searched.

    Args:
        backend: The code, and the other defaults.
        name: Its name.
        summary: Its summary.
        **defaults: Defaults by the names of hyperparameters.
    """
    return replace(
        backend, name=name, summary=summary, tuning_free=True, ordered=(),
        hyperparameters={
            key: replace(knob, default=defaults.pop(key, knob.default), search=None, wide=None)
            for key, knob in backend.hyperparameters.items()},
        sources=(*backend.sources, __name__))
