"""Scores of AlgoPerf v0.5 by two rules, with intervals from resampling its studies.

``python docs/evidence/algoperf.py RESULTS`` takes a folder that ``bench-apts import algoperf`` has
made of one ruleset's logs and the base workloads, and prints the tables of algoperf.md.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from bench_apts.core.store import read_trials
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.rankings import area_score, ratios
from bench_apts.stats.trial_costs import outcome

RESAMPLES = 2000
SEED = 2026


def published(studies):
    """Return AlgoPerf's time of a submission: the median over studies of the best trial's."""
    return float(np.median([min(cost for _, cost in trials) for trials in studies]))


def billed(studies):
    """Return the expected time with all trials billed."""
    trials = [trial for study in studies for trial in study]
    return ert([spent for spent, _ in trials], [cost for _, cost in trials]).cost


def scores(times):
    """Return the area score of each submission; ``times`` holds one for each workload."""
    return np.array([area_score(ratio) for ratio in ratios(times).values()])


def main():
    """Print a table for each rule."""
    found = defaultdict(lambda: defaultdict(list))
    for record in read_trials(Path(sys.argv[1])):
        trial, result = record.trial, outcome(record)
        study = Path(record.header.imported.source).parts[2]
        found[trial.label, trial.suite.name][study].append(
            (result.spent["train_s"], result.cost["train_s"]))
    pools = {key: list(studies.values()) for key, studies in found.items()}
    labels, problems = (sorted({key[place] for key in pools}) for place in (0, 1))
    trials = {label: sum(len(study) for problem in problems
                         for study in pools.get((label, problem), [])) for label in labels}

    def score(rule, generator=None):
        times = {label: [] for label in labels}
        for label in labels:
            for problem in problems:
                studies = pools.get((label, problem), [])
                if generator is not None and studies:
                    studies = [studies[i] for i in generator.integers(0, len(studies),
                                                                      len(studies))]
                times[label].append(rule(studies) if studies else np.inf)
        return scores(times)

    for title, rule in (("AlgoPerf's own", published), ("All trials billed", billed)):
        points, generator = score(rule), np.random.default_rng(SEED)
        drawn = np.array([score(rule, generator) for _ in range(RESAMPLES)])
        ranks = 1 + (drawn[:, None, :] > drawn[:, :, None]).sum(axis=2)
        print(f"\n| {title} | score | 95 % | rank | 95 % | trials |\n" + "| --- " * 6 + "|")
        for place, index in enumerate(np.argsort(-points, kind="stable"), 1):
            low, high = np.quantile(drawn[:, index], (0.025, 0.975))
            first, last = np.quantile(ranks[:, index], (0.025, 0.975), method="nearest")
            label = labels[index]
            mark = "" if trials[label] == max(trials.values()) else " †"
            print(f"| {label}{mark} | {points[index]:.3f} | {low:.3f}–{high:.3f} | {place} | "
                  f"{first}–{last} | {trials[label]} |")


if __name__ == "__main__":
    main()
