"""What the decision boxes cannot tell is said in every part that sets optimizers side by side."""

import pytest

from bench_apts.reports.decision_answers import Answer, Box, Boxes
from bench_apts.reports.report_page import add_uncertainty, uncertainty_sentence
from bench_apts.reports.section_parts import Part
from bench_apts.reports.sections import find_sections


def decision(**verdicts):
    """Boxes at N = 1, 2, … with these verdicts; ``alone`` has nobody to be compared with."""
    boxes = []
    for number, (name, verdict) in enumerate(verdicts.items(), 1):
        rival = None if name == "alone" else "adam"
        answer = Answer("Training once", verdict, "", "", "", {"runner_up": rival})
        boxes.append(Box(f"N = {number}", verdict, "", (answer,)))
    return Part("decision", "Which", "", (Boxes(tuple(boxes)),))


@pytest.mark.parametrize(("boxes", "expected"), [
    (decision(a="clear", b="clear"), ""),
    (decision(a="clear", b="not told apart"), "N = 2: the trials do not tell"),
    (decision(a="cannot be told", b="cannot be told"), "N = 1 and N = 2: so few trials cannot"),
    (decision(alone="not told apart"), ""),
    (decision(a="none"), "")])
def test_the_weakest_finding(boxes, expected):
    found = uncertainty_sentence(boxes)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


def test_it_is_added_to_the_findings_of_all_sections_that_compare():
    found, _ = find_sections()
    assert {each.section.anchor for each in found if each.section.compares} == {
        "main", "tuning", "curves", "scaling", "pareto"}
    part = Part("scaling", "Scaling", "sgd is first.")
    assert add_uncertainty(part, decision(a="not told apart")).finding.startswith(
        "sgd is first. N = 1: the trials do not tell")
    assert add_uncertainty(part, decision(a="clear")) == part
