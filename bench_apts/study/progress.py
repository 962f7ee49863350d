"""What a study shows while it runs: bars on a terminal, plain lines in a pipe or a log."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from bench_apts.core.records import Eval, Event, TrialRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from bench_apts.core.spec import Scalar, Trial

_POLL_S = 0.2
_decoder = msgspec.json.Decoder(Event)


def describe_trial(trial: Trial) -> str:
    """Name a trial in a few words: of a tuning trial also what was searched."""
    what = "tuning" if trial.stage == "tune" else "twin of report" if trial.twin else "report"
    searched = {*trial.searched.ranges, *(trial.searched.choices or ())} if trial.searched else ()
    knobs = ", ".join(
        f"{name}={_value(value)}" for name, value in trial.hyperparameters.items()
        if (name in searched if searched else isinstance(value, float))
    ) if trial.stage == "tune" else ""
    return (f"{trial.suite.name} {trial.label} N={trial.ranks} {what} {trial.repetition + 1}"
            + (f" ({knobs})" if knobs else ""))


def _value(value: Scalar) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


class StudyProgress:
    """Follows the trials' event files; the ranks themselves print nothing.

    Args:
        console: Where to show it; whether it is a terminal decides how.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            # Without markup, which would take the [lr=0.1] of a selector for a style.
            TextColumn("{task.description}", markup=False), BarColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console, disable=not console.is_terminal, transient=True)
        self._study = self._bars.add_task("study", total=None, note="", left="")
        self._current = self._bars.add_task("", total=None, note="", left="", visible=False)
        self._total = self._done = self._ran = 0
        self._spent = 0.0
        self.statuses: dict[str, int] = {}

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars while the block runs, if there is a terminal."""
        with self._bars:
            yield

    def study_started(self, trials: int) -> None:
        """Tell how many trials the study has."""
        self._total = trials
        self._bars.update(self._study, total=trials)

    def note(self, text: str) -> None:
        """Show a line that is no trial's end."""
        self._console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    def trial_kept(self, record: TrialRecord, meanwhile: bool = False) -> None:
        """Show that a trial was finished by an earlier command, or ``meanwhile`` by another."""
        self._advance(record, "run by another" if meanwhile else "kept from an earlier run")

    def trial_finished(self, record: TrialRecord) -> None:
        """Show how a trial ended."""
        self._ran += 1
        self._advance(record, "")

    def trial_skipped(self) -> None:
        """Tell that a trial is not run, as others like it failed before their first step."""
        self._done += 1
        self._bars.update(self._study, completed=self._done, note=f"{self._done}/{self._total}")

    def _advance(self, record: TrialRecord, note: str) -> None:
        assert record.end is not None
        status = record.end.status
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._done += 1
        left = self._spent / self._ran * (self._total - self._done) if self._ran else 0.0
        remaining = f"about {_duration(left)} left" if left else ""
        last = record.evals[-1] if record.evals else None
        metric = record.trial.suite.target.metric
        parts = [f"[{self._done}/{self._total}] {describe_trial(record.trial)}: {status}"]
        if last and metric in last.validation:
            parts.append(f"{metric} {last.validation[metric]:.4f}")
            parts.append(f"train {last.train_s:.2f} s")
        parts += filter(None, (record.end.reason, note, remaining))
        self._console.print(", ".join(parts), markup=False, highlight=False, soft_wrap=True)
        self._bars.update(self._study, completed=self._done, left=remaining,
                          note=f"{self._done}/{self._total}")

    @contextlib.contextmanager
    def trial(self, trial: Trial, path: Path) -> Iterator[None]:
        """Follows one trial's event file while the block runs."""
        began, stop = time.monotonic(), threading.Event()
        self._bars.reset(self._current, total=trial.suite.budget.samples, visible=True,
                         description=describe_trial(trial), note="starting", left="")
        follower = threading.Thread(
            target=self._follow, args=(trial, path, path.stat().st_size, stop), daemon=True)
        if self._console.is_terminal:
            follower.start()
        try:
            yield
        finally:
            stop.set()
            if follower.ident:
                follower.join()
            self._spent += time.monotonic() - began
            self._bars.update(self._current, visible=False)

    def _follow(self, trial: Trial, path: Path, offset: int, stop: threading.Event) -> None:
        metric, began = trial.suite.target.metric, time.monotonic()
        with path.open("rb") as file:
            file.seek(offset)
            pending = b""
            while not stop.wait(_POLL_S):
                *lines, pending = (pending + file.read()).split(b"\n")
                for line in lines:
                    with contextlib.suppress(msgspec.DecodeError):
                        event = _decoder.decode(line)
                        if isinstance(event, Eval):
                            self._show(trial, event, metric, time.monotonic() - began)

    def _show(self, trial: Trial, event: Eval, metric: str, elapsed: float) -> None:
        value = event.validation.get(metric)
        shown = "-" if value is None else f"{value:.4f}"
        share = event.samples / trial.suite.budget.samples
        self._bars.update(
            self._current, completed=event.samples,
            note=f"epoch {event.epoch:.1f}, {metric} {shown}",
            left=f"{_duration(elapsed * (1 - share) / share)} left" if share > 0.02 else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d} min"
