"""Runs the published APTS as the code behind the curves of arXiv 2502.05133 did, epoch by epoch.

There every rank drew the same minibatches, 10,000 samples and 5 % of them again from each of the
others of the epoch, instead of a share of one. N ranks that hold equal samples take equal steps,
so one process does the work of all: what an all-reduce sums is N times its own. This is what
``bench-apts run --optimizers "apts-paper[preset=reference,overlap=5,minibatch=12500]"`` does on N
real ranks, up to the choice of the minibatches, at a fraction of the cost.

    python docs/evidence/paper_curves.py --data-dir … --ranks 2 --epochs 10 retries=10

Settings of ``PaperSettings`` follow as name=value. Rows of a CSV table are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from bench_apts.optimizers.apts.acceptance import paper_settings
from bench_apts.optimizers.apts.flat_problem import FlatBuffers, FlatProblem
from bench_apts.optimizers.apts.paper import PaperMethod
from bench_apts.optimizers.apts.rank_agreement import RankGroup
from bench_apts.plugins import registry
from bench_apts.suites import data, models
from bench_apts.trial.loader import Conversion, Resident

BATCH, OVERLAP = 10_000, 500


class EqualRanks(RankGroup):
    """N ranks that send equal messages."""

    def __init__(self, size: int) -> None:
        self.size, self.rank, self.floats, self.calls = size, 0, 0, 0

    def sum(self, message: torch.Tensor) -> None:
        """Multiplies by N."""
        message.mul_(self.size)
        self.floats += message.numel()
        self.calls += 1


def minibatches(samples: int, epoch: int, seed: int) -> list[torch.Tensor]:
    """Returns the minibatches of an epoch, each with its random samples of all others."""
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    parts = torch.randperm(samples, generator=generator).split(BATCH)
    return [
        torch.cat([part, *(other[torch.randint(len(other), (OVERLAP,), generator=generator)]
                           for other in parts if other is not part)])
        for part in parts]


def main() -> None:
    """Trains, and prints a row after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="paper-mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()
    chosen = {}
    for setting in options.settings:
        name, value = setting.split("=")
        try:
            chosen[name] = json.loads(value)
        except json.JSONDecodeError:
            chosen[name] = value

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    suite = registry.suite(options.suite)
    prepared = data.prepare(suite.data.name, options.data_dir, offline=True)
    found = data.load(prepared.folder)
    train, test = (
        Resident(inputs, targets, Conversion.of(found, inputs, targets, torch.device("cpu")))
        for inputs, targets in ((found.train_inputs, found.train_targets),
                                (found.test_inputs, found.test_targets)))
    model = models.build(
        suite.model.name, suite.model.options, found.input_shape, found.classes)
    problem = FlatProblem(FlatBuffers(list(model.parameters()), [], PaperMethod.SLOTS))
    ranks = EqualRanks(options.ranks)
    method = PaperMethod(problem, ranks, paper_settings(**{"preset": "reference"} | chosen))

    print("suite,ranks,seed,settings,epoch,iteration,accuracy,loss,forwards,backwards,floats,calls")
    iteration = 0
    everything = test.take(torch.arange(len(test)))
    for epoch in range(1, options.epochs + 1):
        for indices in minibatches(len(train), epoch, options.seed):
            batch = train.take(indices)

            def closure(backward: bool, batch: object = batch) -> torch.Tensor:
                loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets)
                if backward:
                    loss.backward()
                return loss.detach()

            problem.pose(closure)
            _, last = method.iterate()
            iteration += 1
        with torch.no_grad():
            right = model(everything.inputs).argmax(1) == everything.targets
        counts = problem.forwards, problem.backwards, ranks.floats, ranks.calls
        print(options.suite, options.ranks, options.seed, " ".join(options.settings), epoch,
              iteration, f"{100 * right.double().mean().item():.2f}", f"{last['loss']:.4f}",
              *(f"{count / iteration:.1f}" for count in counts), sep=",", flush=True)


if __name__ == "__main__":
    main()
