"""The parts of a page, one module each; see ``reports/section_parts.py``."""

from __future__ import annotations

from bench_apts.reports.sections import (
    collective_traffic,
    commit_history,
    decision_boxes,
    hyperparameter_sensitivity,
    main_table,
    optimizer_ranking,
    pareto_fronts,
    scaling_section,
    training_curves,
    trial_detail,
    trust_region_steps,
    tuning_section,
)

__all__ = ["CHAPTER", "commit_history", "decision_boxes", "optimizer_ranking", "tuning_section"]

CHAPTER = (
    main_table,
    tuning_section,
    training_curves,
    scaling_section,
    pareto_fronts,
    hyperparameter_sensitivity,
    trust_region_steps,
    collective_traffic,
    trial_detail,
)
"""What follows the decision boxes in a suite's chapter, in the order of the page."""
