"""APTS, the Additively Preconditioned Trust-Region Strategy, as an optimizer for any loop.

``from bench_apts.optimizers.apts import APTS``; nothing here needs the benchmark harness.
"""

from bench_apts.optimizers.apts.optimizer import APTS

__all__ = ["APTS"]
