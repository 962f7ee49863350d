"""docs/evidence/paper_curves.py: one process does what equal ranks do, and on which samples."""

import csv
import importlib.util
from pathlib import Path

import torch
from torch import nn

from bench_apts.optimizers.apts.acceptance import paper_settings
from bench_apts.optimizers.apts.flat_problem import FlatBuffers, FlatProblem
from bench_apts.optimizers.apts.paper import PaperMethod
from bench_apts.optimizers.apts.rank_agreement import RankGroup

PATH = Path(__file__).parents[2] / "docs" / "evidence" / "paper_curves.py"


def script():
    spec = importlib.util.spec_from_file_location("paper_curves", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def course(ranks):
    """Some iterations of a small network on the same samples for all, with what they sent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs, targets = torch.randn(20, 4), torch.randint(3, (20,))

    def closure(backward):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        if backward:
            loss.backward()
        return loss.detach()

    problem = FlatProblem(FlatBuffers(list(model.parameters()), [], 1))
    method = PaperMethod(problem, ranks, paper_settings("reference", radius=2.0))
    results = []
    for _ in range(12):
        problem.pose(closure)
        _, last = method.iterate()
        results.append((last, problem.flat.values.tolist(), ranks.floats, ranks.calls))
    return results


def on_equal_ranks(rank):
    return course(RankGroup(None))


def test_one_process_does_what_equal_ranks_do(on_ranks):
    alone = course(script().EqualRanks(2))
    assert on_ranks(on_equal_ranks, 2) == [alone, alone]
    assert {last["accepted"] for last, *_ in alone} == {True, False}


def test_minibatches_are_a_part_of_the_epoch_and_some_of_each_other():
    module = script()
    batches = module.minibatches(60_000, 1, 0)
    assert [len(batch) for batch in batches] == [12_500] * 6
    parts = [set(batch[: module.BATCH].tolist()) for batch in batches]
    assert len(set.union(*parts)) == 60_000
    for batch, part in zip(batches, parts, strict=True):
        for number, other in enumerate(o for o in parts if o is not part):
            start = module.BATCH + number * module.OVERLAP
            assert set(batch[start : start + module.OVERLAP].tolist()) <= other
    assert not torch.equal(batches[0], module.minibatches(60_000, 2, 0)[0])
    assert torch.equal(batches[0], module.minibatches(60_000, 1, 0)[0])


def test_the_table_adds_up_and_the_curves_are_reproduced():
    with PATH.with_name("paper.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["suite"], r["ranks"]) for r in rows} >= {
        ("paper-mnist", "2"), ("paper-mnist", "4"), ("paper-mnist", "6"), ("paper-cifar10", "2")}
    for row in rows:
        mean = float(row["test_accuracy"])
        assert float(row["difference"]) == round(mean - float(row["authors"]), 2)
        assert float(row["lowest"]) <= mean <= float(row["highest"])
        minibatches = 6 if row["suite"] == "paper-mnist" else 5
        assert int(row["iterations"]) == minibatches * int(row["epoch"])
        if row["epoch"] == "10" and row["settings"].startswith("preset=reference"):
            assert abs(float(row["difference"])) <= 1
