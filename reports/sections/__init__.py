"""The parts of a page, one module each; see ``reports/parts.py``."""

from __future__ import annotations

from . import (
    curves,
    decision,
    detail,
    history,
    main,
    pareto,
    ranking,
    scaling,
    sensitivity,
    traffic,
    trust,
    tuning,
)

__all__ = ["CHAPTER", "decision", "history", "ranking", "tuning"]

CHAPTER = (main, tuning, curves, scaling, pareto, sensitivity, trust, traffic, detail)
"""What follows the decision boxes in a suite's chapter, in the order of the page."""
