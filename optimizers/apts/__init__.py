"""APTS, the Additively Preconditioned Trust-Region Strategy, as an optimizer for any loop.

``from bench_apts.optimizers.apts import APTS``; nothing here needs the benchmark harness.
"""

from bench_apts.optimizers.apts.optimizer import APTS
from bench_apts.optimizers.apts.rank_agreement import RankError

__all__ = ["APTS", "RankError"]
