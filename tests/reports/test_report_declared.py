"""What an optimizer declares of itself reaches the report, whoever installed it."""

import pytest
from report_fixture import Folder

from bench_apts.reports.decision_answers import Boxes
from bench_apts.reports.section_parts import StudyContext
from bench_apts.reports.sections import collective_traffic, decision_boxes, optimizer_ranking

BACKEND = """
from bench_apts.contract import GRADIENT_SUM, Backend

def build(model, loss, values, world):
    raise AssertionError("a report builds no stepper")

backend = Backend(name="novel", summary="a stranger's", hyperparameters={}, build=build,
                  tuning_free=True, family="Novel", traffic=GRADIENT_SUM)
"""


@pytest.fixture
def contexts(tmp_path):
    """A study at N = 2 in which a stranger's optimizer costs three times as much as sgd."""
    folder = Folder(tmp_path / "study", ("sgd", "novel"), (2,))
    for label, seconds in (("sgd", (2, 2, 2, 2, 2, 2)), ("novel", (6, 6, 6, 6, 6, 6))):
        folder.add(label, "report", seconds, 2, tuning_free=True, sent=26_280.0, plugin=(
            "strange_novel:backend" if label == "novel" else "gone:backend"))
    return folder.contexts()


def test_a_strangers_optimizer_gets_the_same_tables(contexts, install):
    install("optimizers", ":backend", novel=BACKEND)
    ranking = optimizer_ranking.part(StudyContext(tuple(contexts)))
    traffic = collective_traffic.part(contexts[0])
    decision = decision_boxes.part(contexts[0])
    against = {row["optimizer"]: row["against"] for row in ranking.blocks[0].table.records()}
    assert against == {"sgd": "novel", "novel": "novel"}
    formulas = {row["optimizer"]: row["formula"] for block in traffic.blocks
                if getattr(block, "table", None) and block.table.name == "known-traffic"
                for row in block.table.records()}
    assert formulas == {"sgd": None, "novel": "2f·P"}
    (box,) = next(block for block in decision.blocks if isinstance(block, Boxes)).boxes
    assert any("novel is behind at 3.00 times the lowest cost" in line for line in box.remarks)


def test_an_optimizer_that_is_gone_has_declared_nothing(contexts):
    ranking = optimizer_ranking.part(StudyContext(tuple(contexts)))
    assert {row["against"] for row in ranking.blocks[0].table.records()} == {"sgd"}
