"""Where the numbers come from: provenance cards, and caveats about data, defaults and targets."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core import units
from bench_apts.stats import trial_origins
from bench_apts.suites.known_data import FINGERPRINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Suite
    from bench_apts.core.store import StudyFile
    from bench_apts.reports.gather import Gathered

_MUCH_WAITING = 0.1
"""Share of the time between evaluations that counts as a long wait for data."""

_COARSE = 0.005
"""Standard error of an accuracy, half a point, above which a split is called small."""

_MACHINE = ("hostname", "os", "cpu", "cores", "affinity", "cpu_quota", "effective_cores",
            "memory_bytes", "memory_limit_bytes", "address_space_bytes", "gpus", "device",
            "threads", "binding")
_CODE = ("commit", "commit_unknown", "dirty", "version", "bench_apts")
_MOST_VALUES = 6


class ProvenanceCard(NamedTuple):
    """A titled list of names and values, in a card as wide as the page if they are long."""

    title: str
    items: tuple[tuple[str, str], ...]
    wide: bool = False


def provenance_cards(gathered: Gathered) -> list[ProvenanceCard]:
    """Return the cards of the provenance section; unknown environment keys are shown too."""
    study, environment = gathered.file.study, _environment(gathered)
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
    found = [ProvenanceCard("Run", tuple(run)), ProvenanceCard("Machine", tuple(machine)),
             ProvenanceCard("Versions and settings", tuple(rest)),
             ProvenanceCard("Environments in which trials differ", _environments(gathered), True),
             *(ProvenanceCard(f"Suite {suite.name}", _suite(suite)) for suite in study.suites),
             ProvenanceCard("Data and code fingerprints (SHA-256)", tuple(
                 [(f"Data of {shown}", sha) for _, shown, sha in _data_sets(gathered)]
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
    found = trial_origins.group_by_origin(gathered.trials)
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
    """Sum what all trials took, evaluation and set-up included."""
    clocks = [(record.end.wall_s if record.end else record.evals[-1].wall_s,
               record.trial.ranks) for record in gathered.trials
              if (record.end or record.evals) and record.measures("wall_s")]
    if not clocks:
        return "unknown: the logs do not say"
    noun = "GPU" if gathered.device == "cuda" else "rank"
    hours = math.fsum(wall * ranks for wall, ranks in clocks) / 3600
    return (f"{units.format_seconds(math.fsum(wall for wall, _ in clocks))} of wall clock in "
            f"{units.plural(len(clocks), 'trial')}, "
            f"{units.digits(hours)} {noun}-hours")


def _repeatable(gathered: Gathered) -> str:
    """Count the A/A pairs that ended with the same weights, bit for bit."""
    pairs = [pair for group in gathered.groups for cell in group.cells for pair in cell.pairs]
    same = sum(first.end.final_weights_sha256 == twin.end.final_weights_sha256
               for first, twin in pairs if first.end and twin.end)
    return (f"{same} of {units.plural(len(pairs), 'trial')} that ran twice ended with the same "
            "weights, bit for bit" if pairs else "unknown: no trial ran twice")


def _determinism(gathered: Gathered) -> str:
    """List torch's switches; several settings if the trials did not have the same."""
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
        *(_training(suite) if suite.trainable else ()),
        ("Target", f"{units.format_goal(suite.target)} (version {suite.target.version})"),
        ("Target set by", f"{measured}. {origin.note}".strip(". ") + "."),
    )


def _training(suite: Any) -> tuple[tuple[str, str], ...]:
    return (
        *((f"{table.capitalize()} from", f"{source} {show('', options)}".strip())
          for table, source in suite.sources.items() if table != "model"
          for options in [getattr(suite, table).options or {}]),
        ("Model", f"{suite.model.name} {show('', suite.model.options)}".strip()),
        ("Batch", f"{suite.batch_size} ({suite.scaling} scaling), {suite.precision}"),
        ("Budget", f"{suite.budget.samples:,} samples, "
                   f"{units.trim(units.format_seconds(suite.budget.seconds))}"),
        ("Evaluated every", f"{suite.evaluation.every_samples:,} samples; "
                            f"{suite.evaluation.consecutive} in a row make a hit"),
        ("Validation samples", f"{suite.data.validation:,}" if suite.data.validation
                               else "a split of the data's own"),
    )


def _title(key: str) -> str:
    text = key.removesuffix("_bytes").replace("_", " ")
    known = {"os": "OS", "cpu": "CPU", "gpu": "GPU", "gpus": "GPUs",
             "dirty": "Uncommitted changes", "beside": "Trials side by side"}
    first, _, rest = text.partition(" ")
    return f"{known.get(first, units.capitalized(first))} {rest}".strip()


def show(key: str, value: Any) -> str:
    """Render one value of an environment, whatever it is, as a line of text."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and key.endswith("_bytes"):
        return units.format_size(value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={show(str(name), entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(show(key, entry) for entry in value)
    return str(value)


def _data_sets(gathered: Gathered) -> list[tuple[str, str, str]]:
    """Return the name of each data set that trials ran on, the name shown, and its SHA-256."""
    data = sorted({(r.trial.suite.data.name, r.trial.data_sha256) for r in gathered.trials
                   if r.trial.suite.trainable})
    return [(name, _data_name(name, sha256, gathered.file), sha256) for name, sha256 in data]


def _data_name(name: str, sha256: str, file: StudyFile) -> str:
    """Return a data set's name, with its fingerprint where it is not the published one.

    Args:
        name: As the suite has it.
        sha256: The fingerprint of what the trials ran on.
        file: The study, which says what was not shown to be published.
    """
    if name not in (file.unpublished or ()):
        return name
    words = "not" if name in FINGERPRINTS else "not known to be"
    return f"{name} (data {sha256[:6]}…, {words} the published files)"


def data_caveats(gathered: Gathered) -> Iterator[tuple[str, str]]:
    """Yield titles and texts: data that were not published, trials that waited for data."""
    strange = [shown for name, shown, _ in _data_sets(gathered) if shown != name]
    if strange:
        yield "Other data under a known name", (
            f"The trials ran on {units.listing(strange)}. Their results are not comparable with "
            "those on the published files; the fingerprint alone says which samples they are.")
    shares: dict[str, list[float]] = defaultdict(list)
    for record in gathered.trials:
        ledger = record.end.ledger if record.end else {}
        if ledger.get("data_s"):
            shares[record.trial.suite.name].append(
                ledger["data_s"] / (ledger["data_s"] + ledger.get("train_s", 0.0)))
    for suite, found_shares in shares.items():
        if (share := statistics.median(found_shares)) >= _MUCH_WAITING:
            yield "Trials waited for data", (
                f"Of the time between the evaluations on {suite}, "
                f"{units.format_percent(share, 0)} was spent waiting for samples to be read "
                "(median trial). It is no training time: costs in seconds are those of a machine "
                "whose data is there in time. More workers wait less.")


def measure_caveats(gathered: Gathered) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each caveat."""
    suites = gathered.file.study.suites
    yield from _developed(gathered)
    for suite in suites:
        if suite.target.provenance.trials:
            yield _target(suite)
    for suite in suites:
        samples = max((group.validation_samples for group in gathered.groups
                       if group.suite == suite), default=0)
        yield from _coarse(suite, samples)


def _developed(gathered: Gathered) -> Iterator[tuple[str, str]]:
    names = list(dict.fromkeys(suite.name for suite in gathered.file.study.suites))
    backends = {cell.optimizer: cell.backend for group in gathered.groups for cell in group.cells
                if cell.backend and cell.backend.developed_on}
    for optimizer, backend in backends.items():
        chosen = backend.developed_on
        seen = [name for name in names if name in chosen]
        others = [name for name in names if name not in chosen]
        said = (f"The default of {optimizer} was chosen on the validation splits of "
                f"{units.listing(chosen)}.")
        if seen:
            said += (f" So it has seen {units.listing(seen)}, which the defaults and search "
                     "ranges of its rivals were not chosen on; a claim about other problems needs "
                     "other problems.")
        if others:
            said += f" It never saw {units.listing(others)}."
        yield f"What {optimizer}'s default was chosen on", said


def _target(suite: Suite) -> tuple[str, str]:
    origin, target = suite.target.provenance, suite.target
    levels = sorted({level for level in target.levels if level != 1}, reverse=True)
    text = (f"It rests on {origin.optimizer}, tuned by {units.plural(origin.trials, 'trial')}, in "
            f"{units.plural(origin.seeds, 'final training')}"
            + (f": {origin.note}" if origin.note else "")
            + f". A target at the median of a baseline less a standard deviation lies within its "
            f"scatter, so that some trainings of {origin.optimizer} miss it by construction.")
    if levels:
        text += (" Expected cost by level of the target shows "
                 + units.listing([units.format_goal(target, level).rpartition(" of ")[2]
                                  for level in levels]) + " as well.")
    return f"How the target of {suite.name} was set", text


def _coarse(suite: Suite, samples: int) -> Iterator[tuple[str, str]]:
    """Name a validation split that tells accuracies apart by no less than half a point."""
    target = suite.target
    if (not samples or not suite.trainable or not units.is_share(target, target.metric)
            or not 0 < target.value < 1):
        return
    error = math.sqrt(target.value * (1 - target.value) / samples)
    if error > _COARSE:
        yield f"Few validation samples in {suite.name}", (
            f"Accuracies are measured on {samples:,} samples: at the target of "
            f"{units.trim(units.digits(100 * target.value))}{units.THIN}% that is a standard "
            f"error of {units.digits(100 * error, 2)} points. When a training reaches the target "
            "depends on these samples, too; they are the same for all optimizers.")
