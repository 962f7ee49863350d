"""BatchNorm statistics of an optimizer that evaluates at another point than it trains at."""

from itertools import islice

import pytest
import torch
from one_rank import train

from bench_apts.trial.observer import Observer

OVERRIDES = ('suite.model={source="mechanics_models:batchnorm"}', "suite.budget.samples=1280",
             "suite.evaluation.every_samples=320")


@pytest.fixture
def trained(make_trial, digits, tmp_path, monkeypatch):
    """Runs schedule-free with so many minibatches of refreshment; also returns its minibatches."""

    def run(refresh):
        seen, step = [], Observer.step

        def noted(self, batch):
            seen.append(batch.targets)
            return step(self, batch)

        monkeypatch.setattr(Observer, "step", noted)
        trial = make_trial(f"schedule-free[refresh={refresh}]", 1, OVERRIDES)
        found = train(trial, digits, tmp_path)
        monkeypatch.undo()
        return found, seen

    return run


def test_statistics_are_those_of_the_average_over_training_minibatches(trained):
    run, _ = trained(5)
    first, norm = run.evaluated[0], run.evaluated[1]
    with torch.no_grad():
        hidden = [first(batch.inputs) for batch in islice(run.batches.spare(run.totals.step), 5)]
    means = torch.stack([each.mean(0) for each in hidden]).mean(0)
    variances = torch.stack([each.var(0) for each in hidden]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variances, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_what_is_drawn_is_billed_and_leaves_the_order_of_training_alone(trained):
    (plain, plain_seen), (run, seen) = trained(0), trained(5)
    last, evaluations = run.evals[-1], len(run.evals)
    assert last.forwards == last.counted.forwards == last.step + 5 * evaluations
    assert last.samples == last.counted.samples == 64 * last.forwards
    assert last.backwards == last.step
    assert last.step < plain.evals[-1].step == plain.evals[-1].forwards
    assert len(seen) == last.step
    assert all(torch.equal(one, other) for one, other in zip(seen, plain_seen, strict=False))
    # Running averages of y, which few steps have moved from their initial values, fit worse.
    assert run.evals[1].validation["loss"] < plain.evals[1].validation["loss"]
