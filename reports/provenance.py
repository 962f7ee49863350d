"""Where the numbers come from: command, machine, versions, data and suites, as short lists."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core import units
from bench_apts.reports import datasets
from bench_apts.stats import origins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.records import TrialRecord

    from .gather import Gathered

_MACHINE = ("hostname", "os", "cpu", "cores", "affinity", "cpu_quota", "effective_cores",
            "memory_bytes", "memory_limit_bytes", "address_space_bytes", "gpus", "device",
            "threads", "binding")
_CODE = ("commit", "commit_unknown", "dirty", "version", "bench_apts")
_MOST_VALUES = 6


class Card(NamedTuple):
    """A titled list of names and values, in a card as wide as the page if they are long."""

    title: str
    items: tuple[tuple[str, str], ...]
    wide: bool = False


def cards(gathered: Gathered) -> list[Card]:
    """Returns the cards of the provenance section; unknown environment keys are shown too."""
    study, environment = gathered.file.study, _environment(gathered)
    data = sorted({(r.trial.suite.data.name, r.trial.data_sha256) for r in gathered.trials})
    meters = sorted({f"{r.start.comm_meter} on {r.start.process_group}"
                     for r in gathered.trials if r.start})
    code = sorted({(r.trial.optimizer, r.trial.portable.plugin, r.trial.plugin_sha256)
                   for r in gathered.trials})
    run = [
        ("Command", shlex.join(gathered.file.command)),
        ("Created", gathered.file.created),
        *((_title(key), environment[key]) for key in _CODE if key in environment),
        ("Base seed", str(study.base_seed)),
        ("Trials per tuned optimizer", str(study.trials)),
        ("Seeds per optimizer", str(study.seeds)),
        ("Communication meter", "; ".join(meters) or "none"),
        ("Spent", _spent(gathered)),
        ("Repeatable", _repeatable(gathered)),
        ("Determinism", _determinism(gathered)),
    ]
    machine = [(_title(key), environment[key]) for key in _MACHINE if key in environment]
    rest = [(_title(key), value) for key, value in sorted(environment.items())
            if key not in (*_MACHINE, *_CODE)]
    found = [Card("Run", tuple(run)), Card("Machine", tuple(machine)),
             Card("Versions and settings", tuple(rest)),
             Card("Environments in which trials differ", _environments(gathered), True),
             *(Card(f"Suite {suite.name}", _suite(suite)) for suite in study.suites),
             Card("Data and code fingerprints (SHA-256)", tuple(
                 [(f"Data of {datasets.named(name, sha, gathered.file)}", sha)
                  for name, sha in data]
                 + [(f"{optimizer} ({plugin})", sha) for optimizer, plugin, sha in code]), True)]
    return [card for card in found if card.items]


def _environment(gathered: Gathered) -> dict[str, str]:
    """Write the environments of all trials key by key, with counts where they differ."""
    every: Counter[int] = Counter()
    known: dict[int, dict[str, Any]] = {}
    for record in gathered.trials:
        card = record.header.environment
        every[id(card)] += 1
        known[id(card)] = card
    found = {key: show(key, value) for key, value in gathered.file.environment.items()}
    for key in dict.fromkeys(key for card in known.values() for key in card):
        values: Counter[str] = Counter()
        for which, card in known.items():
            if key in card:
                values[show(key, card[key])] += every[which]
        shown = [f"{text} ({units.plural(number, 'trial')})"
                 for text, number in values.most_common(_MOST_VALUES)]
        more = len(values) - _MOST_VALUES
        found[key] = next(iter(values)) if len(values) == 1 else "; ".join(
            [*shown, *([f"{more} more"] if more > 0 else [])])
    return found


def _environments(gathered: Gathered) -> tuple[tuple[str, str], ...]:
    """List each distinct environment: whose trials ran in it, and in what it differs."""
    found = origins.shares(gathered.trials)
    if len(found) < 2:
        return ()
    return tuple((_whose(records), ", ".join(f"{name}={value}" for name, value in values))
                 for values, records in sorted(found.items(), key=lambda item: item[0]))


def _whose(records: Sequence[TrialRecord]) -> str:
    labels = sorted({record.trial.label for record in records})
    sizes = sorted({record.trial.ranks for record in records})
    return (f"{units.plural(len(records), 'trial')} ({', '.join(labels)}; "
            f"N = {', '.join(map(str, sizes))})")


def _spent(gathered: Gathered) -> str:
    """Sums what all trials took, evaluation and set-up included."""
    clocks = [(record.end.wall_s if record.end else record.evals[-1].wall_s,
               record.trial.ranks) for record in gathered.trials if record.end or record.evals]
    noun = "GPU" if gathered.device == "cuda" else "rank"
    hours = math.fsum(wall * ranks for wall, ranks in clocks) / 3600
    return (f"{units.seconds(math.fsum(wall for wall, _ in clocks))} of wall clock in "
            f"{units.plural(len(gathered.trials), 'trial')}, "
            f"{units.digits(hours)} {noun}-hours")


def _repeatable(gathered: Gathered) -> str:
    """Counts the A/A pairs that ended with the same weights, bit for bit."""
    pairs = [pair for group in gathered.groups for cell in group.cells for pair in cell.pairs]
    same = sum(first.end.final_weights_sha256 == twin.end.final_weights_sha256
               for first, twin in pairs if first.end and twin.end)
    return (f"{same} of {units.plural(len(pairs), 'trial')} that ran twice ended with the same "
            "weights, bit for bit" if pairs else "unknown: no trial ran twice")


def _determinism(gathered: Gathered) -> str:
    """Lists torch's switches; several settings if the trials did not have the same."""
    found = dict.fromkeys(show("", r.start.numerics) for r in gathered.trials
                          if r.start and r.start.numerics)
    return "; or ".join(found) or "unknown: recorded by an earlier version"


def _suite(suite: Any) -> tuple[tuple[str, str], ...]:
    origin = suite.target.provenance
    measured = (f"{origin.optimizer}, {units.plural(origin.trials, 'trial')}, "
                f"{units.plural(origin.seeds, 'seed')}" if origin.trials
                else "not measured")
    return (
        ("What", suite.summary),
        ("Version", str(suite.version)),
        *((f"{table.capitalize()} from", f"{source} {show('', options)}".strip())
          for table, source in suite.sources.items() if table != "model"
          for options in [getattr(suite, table).options or {}]),
        ("Model", f"{suite.model.name} {show('', suite.model.options)}".strip()),
        ("Batch", f"{suite.batch_size} ({suite.scaling} scaling), {suite.precision}"),
        ("Budget", f"{suite.budget.samples:,} samples, "
                   f"{units.trim(units.seconds(suite.budget.seconds))}"),
        ("Evaluated every", f"{suite.evaluation.every_samples:,} samples; "
                            f"{suite.evaluation.consecutive} in a row make a hit"),
        ("Validation samples", f"{suite.data.validation:,}" if suite.data.validation
                               else "a split of the data's own"),
        ("Target", f"{units.goal(suite.target)} (version {suite.target.version})"),
        ("Target set by", f"{measured}. {origin.note}".strip(". ") + "."),
    )


def _title(key: str) -> str:
    text = key.removesuffix("_bytes").replace("_", " ")
    known = {"os": "OS", "cpu": "CPU", "gpu": "GPU", "gpus": "GPUs",
             "dirty": "Uncommitted changes", "beside": "Trials side by side"}
    first, _, rest = text.partition(" ")
    return f"{known.get(first, first[:1].upper() + first[1:])} {rest}".strip()


def show(key: str, value: Any) -> str:
    """Renders one value of an environment, whatever it is, as a line of text."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and key.endswith("_bytes"):
        return units.size(value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={show(str(name), entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(show(key, entry) for entry in value)
    return str(value)
