"""The words of the page that a reader may not know, each with its meaning in one or two sentences.

They stand at the page's end, where print has them too, and on hover over a table's title and over
their first use in a sentence.
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

TERMS = {
    "N": "The number of ranks: processes that train one network together.",
    "Expected cost": (
        "What reaching the target costs on average, starting from nothing: the cost of all tuning "
        "trials, each up to its hit or else whole, divided by the number that hit. An optimizer "
        "that is not tuned is judged by its seeds in the same way. If nothing hit, the cost is "
        "more than a bound, and that is all that is said."),
    "Hit": (
        "The first of several successive evaluations on the validation split that reach the "
        "target; a single lucky one does not count. The cost of a hit is read at that evaluation, "
        "never interpolated."),
    "Miss": (
        "A trial that did not reach the target within its cap. It stays in every statistic: as an "
        "infinite cost in medians, as cost without success in expected costs. No penalty or guess "
        "replaces it."),
    "95 % interval": (
        "The range of values that agree with these trials: of many studies like this one, about "
        "95 % have an interval that holds the true value."),
    "Not told apart": (
        "The trials show no difference that chance would not show as well. “Cannot be told”: so "
        "few trials could show none, however large it were."),
    "Frozen configuration": (
        "The settings that tuning chose: for costs those of the trial with the fewest samples to "
        "the target (if none reached it, to its lower levels; else the best validation metric), "
        "for accuracies those of the best validation metric at the end. The test split is read "
        "only after that."),
    "Break-even": (
        "R*, the least number of trainings for which tuning and training cost no more than "
        "training with an optimizer that needs no tuning."),
    "Minibatch": "The samples of all ranks in one step.",
    "Samples": (
        "Every pass over a sample counts, on all ranks, so that a minibatch of twice the size "
        "costs twice as much."),
    "Gradients": "Backward passes of the busiest rank.",
    "Bytes": (
        "What one rank sends in training: ideal wire bytes, whatever the network's library makes "
        "of them."),
    "Core-seconds": (
        "N times the training seconds, without evaluation, logging and set-up; GPU-seconds on "
        "CUDA. On CPUs samples lead instead, since seconds of CPU ranks measure how these share "
        "their cores."),
    "Modelled": (
        "Not measured: what a rank computes, as recorded, and the time that its messages take on "
        "a network of a given latency and bandwidth."),
    "Pareto front": "The optimizers that no other beats in both of two costs.",
}
"""Meaning by word, as it stands at the beginning of a sentence."""

_SPELLED = {"90 % quantile": "The cost that suffices for nine of ten such searches.",
            "Success": "Share of the trials behind the expected cost that reached the target.",
            "Memory": "Of a rank: on CUDA the device's peak, on CPUs the tensors of model and "
                      "optimizer.",
            "Time": "Training seconds to the target, without evaluation, logging and set-up."}

TITLES = TERMS | _SPELLED
"""Meanings by title of a table's column."""

_NAMES = {name.lower(): name for name in TERMS if len(name) > 1}
_FIRST = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in _NAMES), re.IGNORECASE)


def define_terms(text: str) -> Markup:
    """Return a text for the page, in which each term's first use shows its meaning on hover."""
    seen: set[str] = set()

    def marked(found: re.Match[str]) -> str:
        name = _NAMES[found[0].lower()]
        if name in seen:
            return found[0]
        seen.add(name)
        return f'<abbr title="{escape(TERMS[name])}">{found[0]}</abbr>'

    return Markup(_FIRST.sub(marked, str(escape(text))))
