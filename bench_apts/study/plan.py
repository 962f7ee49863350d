"""From a study to its trials: which optimizer, suite, N and seeds, and in which order."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import UNSET

from bench_apts.core import environment, job
from bench_apts.core.configuration import LogUniform, Uniform
from bench_apts.core.errors import UserError
from bench_apts.core.spec import Entry, Scalar, Searched, Seeds, Study, Suite, Trial, digest
from bench_apts.plugins import registry
from bench_apts.stats.shared_search import follows
from bench_apts.stats.trial_costs import select_best, select_fastest
from bench_apts.study import search_space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna.distributions import BaseDistribution

    from bench_apts.core.configuration import Hyperparameter
    from bench_apts.core.records import TrialRecord
    from bench_apts.plugins.backend import Backend
    from bench_apts.suites.data import Prepared

    Rule = Callable[[list[TrialRecord]], TrialRecord | None]

Stage = Literal["tune", "report"]


@dataclass(frozen=True)
class StudyCell:
    """An optimizer on a suite at one N: what is tuned, frozen and reported together."""

    suite: Suite
    entry: Entry
    ranks: int


class Plan:
    """The trials of a study.

    Args:
        study: The resolved study.
        prepared: The data set of each suite, by the data set's name.
        choose: The rule by which a cell's tuning trial is chosen whose configuration is reported.
        accurate: The rule for a second one, which is reported as well where it is another; None
            to do without.

    Raises:
        UserError: An optimizer is unknown or misconfigured, or a batch cannot be divided.
    """

    def __init__(self, study: Study, prepared: Mapping[str, Prepared],
                 choose: Rule = select_fastest, accurate: Rule | None = select_best) -> None:
        self.study, self.prepared = study, prepared
        self._choose, self._accurate = choose, accurate
        self._drawn: dict[int, list[dict[str, Scalar]]] = {}
        self.plugins = {e.label: registry.optimizer(e.optimizer) for e in study.entries}
        # Interleaved: neighbours in time differ in the optimizer, not in suite or N.
        self.cells = [StudyCell(suite, entry, ranks)
                      for suite in study.suites for ranks in study.ranks
                      for entry in study.entries
                      if ranks >= self.plugins[entry.label].backend.min_ranks]
        for cell in self.cells:
            self._trial(cell, "report", 0, self._backend(cell).configure(cell.entry.pinned))

    def _backend(self, cell: StudyCell) -> Backend:
        return self.plugins[cell.entry.label].backend

    def requires(self, label: str) -> dict[str, str]:
        """Return the versions of what an optimizer's plug-in requires, by package."""
        return environment.versions(self.plugins[label].backend.requires)

    def packages(self) -> list[str]:
        """Return the modules that trials need and that are worth importing once."""
        found = {name for plugin in self.plugins.values() for name in plugin.backend.requires}
        return sorted(found | ({"optuna"} if self.study.pruner != "none" else set()))

    def tuned(self, cell: StudyCell) -> bool:
        """Whether a cell has hyperparameters that tuning searches."""
        return bool(self.space(cell)) and self.study.trials > 0

    def untuned(self) -> dict[str, str]:
        """Return the configurations of the optimizers that are not tuned, by label."""
        trials = [self._trial(cell, "report", 0, self._backend(cell).configure(cell.entry.pinned))
                  for cell in self.cells if not self.tuned(cell)]
        return {trial.label: trial.configuration for trial in trials}

    def search_owner(self, cell: StudyCell) -> StudyCell | None:
        """Return the cell whose search may serve this one too, if there is one."""
        name = self._backend(cell).follows
        if not (name and self.study.share and self.tuned(cell)):
            return None
        return next((other for other in self.cells if _place(other) == _place(cell)
                     and self._backend(other).name == name
                     and other.entry.pinned == cell.entry.pinned), None)

    def shares_search(self, cell: StudyCell, tuned: Sequence[TrialRecord]) -> bool:
        """Whether a cell takes the course of its search's owner, in the first trial of both."""
        owner = self.search_owner(cell)
        if owner is None:
            return False
        return any(follows(own, other) for own in tuned if self.belongs(own, cell)
                   for other in tuned if self.belongs(other, owner))

    def sharing_trial(self, cell: StudyCell, trial: Trial) -> Trial:
        """Return a cell's trial that shows whether it takes the course of the owner's trial."""
        return self._trial(cell, "tune", trial.repetition, trial.hyperparameters)

    def tunings(self, cell: StudyCell) -> int:
        """How many tuning trials a cell has if it does not share another's search."""
        if not self.tuned(cell):
            return 0
        return self.study.trials if self.adaptive(cell) else len(self._draws(cell))

    def adaptive(self, cell: StudyCell) -> bool:
        """Whether what is tried depends on how earlier trials fared."""
        return self.study.sampler == "tpe" and not self._backend(cell).ordered

    def tuning(self) -> list[Trial]:
        """Return the tune-stage trials that are known before any has run, interleaved."""
        drawn = [(cell, self._draws(cell)) for cell in self.cells
                 if self.tuned(cell) and not self.adaptive(cell)]
        return [self._trial(cell, "tune", k, values[k])
                for k in range(self.study.trials) for cell, values in drawn if k < len(values)]

    def space(self, cell: StudyCell) -> dict[str, Hyperparameter]:
        """What is searched for a cell, with its distribution in the study's space."""
        return self._backend(cell).searched(cell.entry.pinned, self.study.space)

    def distributions(self, cell: StudyCell) -> dict[str, BaseDistribution]:
        """The same as Optuna knows it."""
        return search_space.optuna_distributions(self._backend(cell), self.space(cell))

    def asked(self, cell: StudyCell, number: int) -> dict[str, Scalar]:
        """Return Optuna's parameters of a tuning trial that is known before any has run."""
        if self._backend(cell).ordered:
            return {search_space.ORDERED: number}
        values = self._draws(cell)[number]
        return {name: values[name] for name in self.space(cell)}

    def tuned_trial(self, cell: StudyCell, number: int, params: Mapping[str, Scalar]) -> Trial:
        """Return the tuning trial of a number with what Optuna asked for."""
        return self._trial(cell, "tune", number, search_space.full_configuration(
            self._backend(cell), cell.entry.pinned, params))

    def search(self, cell: StudyCell) -> str:
        """Return a name for a cell's search: the same as long as it tries the same."""
        trial = self._trial(cell, "tune", 0, self._backend(cell).configure(cell.entry.pinned))
        return (f"{cell.suite.name} {cell.entry.label} N={cell.ranks} "
                f"{digest([trial.portable, self.study.base_seed])[:12]}")

    def evaluations(self, cell: StudyCell) -> int:
        """How many evaluations a full trial has, the one before the first step apart."""
        return math.ceil(cell.suite.budget.samples / cell.suite.evaluation.every_samples)

    def _draws(self, cell: StudyCell) -> list[dict[str, Scalar]]:
        """All configurations of a search that are known beforehand, drawn once."""
        place = self.cells.index(cell)
        if place not in self._drawn:
            self._drawn[place] = search_space.draw_configurations(
                self._backend(cell), cell.entry.pinned, self.study.trials, self.seed(cell),
                self.study.sampler, self.study.space)
        return self._drawn[place]

    def seed(self, cell: StudyCell) -> int:
        """Return the seed of a cell's draws.

        The space alone decides: the same configurations are tried at every N and by every
        optimizer with these knobs, so that both are compared in pairs.
        """
        space = sorted(self.space(cell).items())
        version = self._backend(cell).space_version
        role = f"draw-{digest([version, *([name, repr(knob.search)] for name, knob in space)])}"
        return job.derive_seed(self.study.base_seed, role, cell.suite.name, 0)

    def reporting(self, tuned: Sequence[TrialRecord]) -> list[Trial]:
        """Return the report-stage trials of all cells whose configuration can be frozen.

        What ends best comes after what is fastest, if it is another configuration. A twin comes as
        far as possible from what it repeats: after the others of its suite and N, and in every
        other repetition before them, so that no drift favours one of the pair.

        Args:
            tuned: Records of tune-stage trials, of this study at least.
        """
        frozen = [(cell, self.freeze(cell, tuned), self.second(cell, tuned))
                  for cell in self.cells]
        trials = []
        for r in range(self.study.seeds):
            for _, group in itertools.groupby(frozen, lambda found: _place(found[0])):
                known = [(cell, values, second) for cell, values, second in group
                         if values is not None]
                block = [self._trial(cell, "report", r, values) for cell, values, _ in known]
                best = [self._trial(cell, "report", r, second) for cell, _, second in known
                        if second is not None]
                twins = [msgspec.structs.replace(trial, twin=True)
                         for trial, (cell, *_) in zip(block, known, strict=True)
                         if self.twinned(cell)]
                trials += block + best + twins if r % 2 == 0 else twins + best + block
        return trials

    def twinned(self, cell: StudyCell) -> bool:
        """Whether a cell is reported twice: the first one of each suite and N."""
        first = next(other for other in self.cells if _place(other) == _place(cell))
        return self.study.twins and cell is first

    def reports(self, cell: StudyCell) -> int:
        """How many report-stage trials a cell has at most, once it is tuned.

        What is fastest and what ends best may turn out to be one configuration.
        """
        two = self._accurate is not None and self.tunings(cell) > 1
        return self.study.seeds * (1 + self.twinned(cell) + two)

    def freeze(self, cell: StudyCell, tuned: Sequence[TrialRecord]) -> dict[str, Scalar] | None:
        """Return the configuration that is reported, or None if no trial got that far."""
        if not self.tuned(cell):
            return self._backend(cell).configure(cell.entry.pinned)
        return self._chosen(cell, tuned, self._choose)

    def second(self, cell: StudyCell, tuned: Sequence[TrialRecord]) -> dict[str, Scalar] | None:
        """Return the configuration that ends best, or None where it is the same or there is none.

        Accuracies are those of this one, costs those of the other.
        """
        if not self.tuned(cell) or self._accurate is None:
            return None
        best = self._chosen(cell, tuned, self._accurate)
        return None if best == self.freeze(cell, tuned) else best

    def _chosen(self, cell: StudyCell, tuned: Sequence[TrialRecord],
                rule: Rule) -> dict[str, Scalar] | None:
        owner = self.search_owner(cell)
        if owner is not None and self.shares_search(cell, tuned):
            return self._chosen(owner, tuned, rule)
        best = rule([record for record in tuned if self.belongs(record, cell)])
        return best.trial.hyperparameters if best else None

    def belongs(self, record: TrialRecord, cell: StudyCell) -> bool:
        """Whether a tune-stage record is a cell's, of this plug-in and these data."""
        trial = record.trial
        return (trial.stage == "tune" and trial.label == cell.entry.label
                and trial.ranks == cell.ranks and trial.suite == cell.suite
                and trial.device == self.study.device and trial.searched == self._searched(cell)
                and trial.plugin_sha256 == self.plugins[cell.entry.label].sha256
                and trial.data_sha256 == self.prepared[cell.suite.data.name].sha256)

    def _trial(
        self, cell: StudyCell, stage: Stage, repetition: int, values: dict[str, Scalar]
    ) -> Trial:
        plugin, suite, ranks = self.plugins[cell.entry.label], cell.suite, cell.ranks
        batch = plugin.backend.minibatch(suite.global_batch(ranks), values, ranks)
        sampling = plugin.backend.slicing(values)  # raises here what the ranks would
        if suite.data.partition and sampling:
            sampling.require_apart()
        if batch % ranks:
            fitting = ranks * (suite.batch_size // ranks + 1)
            raise UserError(
                f"suite {suite.name}: the global batch of {batch} cannot be shared by {ranks} "
                f"ranks; choose other --gpus or --set suite.batch_size={fitting}")
        base, prefix = self.study.base_seed, "tune-" if stage == "tune" else ""
        return Trial(
            label=cell.entry.label, optimizer=plugin.backend.name, hyperparameters=values,
            tuning_free=plugin.backend.tuning_free, batch_size=batch, suite=suite, ranks=ranks,
            stage=stage, repetition=repetition,
            seeds=Seeds(data=job.derive_seed(base, f"{prefix}data", suite.name, repetition),
                        init=job.derive_seed(base, f"{prefix}init", suite.name, repetition)),
            device=self.study.device, data_sha256=self.prepared[suite.data.name].sha256,
            plugin=plugin.reference, plugin_sha256=plugin.sha256,
            searched=self._searched(cell) if stage == "tune" else None)

    def _searched(self, cell: StudyCell) -> Searched:
        study = self.study
        space = self.space(cell)
        # As floats, as which they are read again: the address of a record depends on it.
        ranges = {name: (float(knob.search.low), float(knob.search.high))
                  for name, knob in space.items()
                  if isinstance(knob.search, LogUniform | Uniform)}
        owner = self.search_owner(cell)
        return Searched(study.sampler, study.pruner, study.space,
                        self._backend(cell).space_version, ranges,
                        owner.entry.label if owner else "",
                        tuple(name for name in space if name not in ranges) or UNSET)


def _place(cell: StudyCell) -> tuple[Suite, int]:
    return cell.suite, cell.ranks
