"""What a calibrated target's file says of where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts import __version__
from bench_apts.core import units
from bench_apts.core.spec import Provenance

if TYPE_CHECKING:
    import datetime as dt

    from bench_apts.core.spec import Study
    from bench_apts.study.calibration.outcome import Outcome

TRIALS, SEEDS = 20, 5
"""What the rule asks for; a target from less is provisional."""

OPTIMIZERS = ("sgd", "adam")
"""Those that the rule compares; the latter is AdamW."""


def provenance(outcome: Outcome, study: Study, card: dict[str, Any], today: dt.date
               ) -> Provenance:
    """Return the provenance of a target.

    Args:
        outcome: The target, and what it is made of.
        study: The study that measured it.
        card: The environment card.
        today: The date.
    """
    target, found, winner = outcome.target, outcome.bound, outcome.winner
    up = target.direction == "min"

    def shown(value: float) -> str:
        return units.metric(target, target.metric, value).replace(units.THIN, " ")

    step = (f"{100 * found.step:g} %" if units.is_share(target, target.metric)
            else f"{found.step:g} {target.unit or ''}".strip())
    others = "".join(
        f"; {each.label}: " + (shown(each.bound.median) if each.bound
                               else "not all reruns ran to the end")
        for each in outcome.candidates if each is not winner)
    machine = ", ".join(dict.fromkeys(card["gpus"])) if study.device == "cuda" else "a CPU"
    note = (
        f"{_provisional(outcome, study)}median final validation {target.metric} of {winner.label} "
        f"over {study.seeds} seeds ({shown(found.median)}) {'plus' if up else 'less'} one "
        f"standard deviation ({shown(found.std)}), rounded {'up' if up else 'down'} to a "
        f"multiple of {step}{others}; each tuned by {study.trials} trials at "
        f"N = {study.ranks[0]}; base seed {study.base_seed}, bench-apts {__version__}, "
        f"torch {card['versions']['torch'].partition('+')[0]} on {machine}, {today:%B %Y}")
    return Provenance(winner.label, study.trials, study.seeds, note)


def _provisional(outcome: Outcome, study: Study) -> str:
    """Return a clause that says how the rule was not followed; "" if it was."""
    less = []
    if study.trials < TRIALS:
        less.append(f"{units.plural(study.trials, 'trial')} instead of {TRIALS}")
    if study.seeds < SEEDS:
        less.append(f"{units.plural(study.seeds, 'seed')} instead of {SEEDS}")
    complete = {each.label for each in outcome.candidates if each.bound}
    missing = [name for name in OPTIMIZERS if name not in complete]
    if missing:
        less.append(f"without {units.listing(missing)}")
    return f"provisional, {', '.join(less)}: " if less else ""
