"""``bench-apts check``: whether records can be believed, and whether a change costs anything."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from bench_apts.cli import session
from bench_apts.core.errors import UserError, one_line
from bench_apts.core.files import require_regular_file

if TYPE_CHECKING:
    from bench_apts.regress.gate_findings import GateResult
    from bench_apts.regress.gate_trainings import CodeTree, GateRequest

_DEFAULT = "apts,sgd,adam,zero2"

_MIN_PAIRS = 6
"""With fewer pairs the test has too little power: six of each kind have C(12, 6) = 924 orders."""


def command(
    results: Annotated[Path | None, Argument(
        help="A results folder, for instance results/digits.", show_default=False)] = None,
    baseline: Annotated[str | None, Option(
        metavar="REVISION|RESULTS", show_default=False,
        help="Compare the working tree with a revision, for instance origin/main, run in turns "
             "with it; or with a stored study.")] = None,
    suite: session.Suites = None,
    gpus: Annotated[str | None, Option(
        help="World sizes.  [default: 1,2, as far as there are GPUs]",
        show_default=False)] = None,
    device: session.DeviceOf = "auto",
    optimizers: Annotated[str | None, Option(
        help=f"Optimizers.  [default: {_DEFAULT}, as far as available]",
        show_default=False)] = None,
    pairs: Annotated[int, Option(
        min=_MIN_PAIRS, help="Pairs of runs to begin with; what they leave open gets up to "
                             "four times as many.")] = _MIN_PAIRS,
    factor: Annotated[float, Option(
        min=1.0, help="Slowdown that is tolerated.")] = 1.10,
    quality_loss: Annotated[float, Option(
        min=0.0, max=1.0, metavar="SHARE", help="Loss of the metric at the end of the budget "
                                                "that is tolerated, as a share of base's.",
    )] = 0.005,
    base_seed: session.BaseSeed = 0,
    set_: session.Changes = None,
    data_dir: session.DataDir = None,
    offline: session.Offline = False,
    out: Annotated[Path | None, Option(
        help="New folder to keep the records of all runs in.  [default: they are dropped]",
        show_default=False)] = None,
    markdown: Annotated[Path | None, Option(
        help="File to write a summary for a pull request to.", show_default=False)] = None,
) -> None:
    """Check the records of RESULTS, or with --baseline whether a change costs anything.

    In a checkout of bench-apts base and head are its code; in another repository they are its
    optimizer, and bench-apts is the one that is installed.

    Exit code 1: records cannot be believed, or a regression; 2: no verdict.
    """
    if baseline is None:
        if results is None:
            raise UserError("check takes a results folder whose records to check, or --baseline "
                            "with a revision to compare the working tree with")
        if markdown or out or suite or gpus or device != "auto" or optimizers or set_:
            raise UserError("the options of check are for --baseline, which is missing")
        _sound(results)
        return
    if results is not None:
        raise UserError(f"check looks at the records of {results} or compares with --baseline "
                        f"{baseline}, one at a time; leave one out")
    session.require_finite_factor(factor)
    session.choose_device(device)
    # The answer takes minutes, in which an earlier command's summary must not pass for it.
    _write(markdown, "**cannot tell: the gate did not finish**")
    try:
        found = _gate(baseline, suite or ["digits"], gpus, optimizers, tuple(set_ or ()), data_dir,
                      offline, out, pairs, factor, base_seed, quality_loss)
    except UserError as error:
        _write(markdown, f"**cannot tell: {one_line(str(error))}**")
        raise
    from bench_apts.regress import gate_summary

    text = gate_summary.gate_markdown(found)
    print(text)
    print(gate_summary.gate_verdict(found), flush=True)
    _write(markdown, text)
    if found.code:
        raise typer.Exit(found.code)


def _sound(results: Path) -> None:
    from bench_apts.meters import soundness

    trials, problems = soundness.check(results)
    for problem in problems:
        print(problem)
    print(f"trials: {trials}, " + (f"problems: {len(problems)}" if problems else "all sound"))
    if problems:
        raise typer.Exit(1)


def _gate(baseline: str, suites: list[str], gpus: str | None, optimizers: str | None,
          overrides: tuple[str, ...], data_dir: Path | None, offline: bool, out: Path | None,
          pairs: int, factor: float, base_seed: int, quality_loss: float) -> GateResult:
    from bench_apts.regress import gate_comparison, gate_trainings

    top = gate_trainings.repository_root(Path.cwd())
    stored = (Path(baseline) / "study.json").is_file()
    # Mistakes are found here, before anything is installed.
    lacking = 0 if stored else gate_trainings.missing_commits(top, baseline)
    with (tempfile.TemporaryDirectory(prefix="bench-apts-gate-") as name,
          session.end_in_order("nothing was judged")):
        folder = Path(name)
        place = _new((out or folder / "results").absolute())
        head = gate_trainings.working_tree(top, _new(folder / "head"), Path.cwd())
        if stored:
            if gpus or optimizers or overrides or suites != ["digits"]:
                raise UserError(f"--baseline {baseline} is a study, which says itself what "
                                "is trained; leave --suite, --gpus, --optimizers and --set "
                                "out")
            return gate_comparison.compare_with_stored(
                Path(baseline), head, place, factor=factor, say=_print_now,
                data_dir=data_dir, offline=offline)
        if head.folder is not None:
            _require_own_files(optimizers, suites)
            _offer_installed(head)
        paths = tuple(gate_trainings.suite_path(head, suite) for suite in suites)
        request = _resolve_request(paths, gpus, optimizers, overrides, data_dir, offline)
        base = gate_trainings.committed_tree(
            top, baseline, _new(folder / "base"), Path.cwd())
        _print_now(f"base: {base.text}, head: {head.text}")
        found = gate_comparison.compare_interleaved(
            base, head, request, place, pairs=pairs, factor=factor, base_seed=base_seed,
            say=_print_now, tolerated=quality_loss)
        if lacking:
            note = (f"head lacks {lacking} of base's commits, so what they gained counts as "
                    f"lost; compare with what git merge-base {baseline} HEAD says")
            found = dataclasses.replace(found, notes=(note, *found.notes))
        return found


def _require_own_files(optimizers: str | None, suites: list[str]) -> None:
    """Refuse what does not differ between two states of somebody's repository.

    Raises:
        UserError: No optimizer is named, or one or a suite is an absolute path.
    """
    if optimizers is None:
        raise UserError("this repository is not bench-apts: name its optimizer, for instance "
                        "--optimizers my_optimizer.py")
    for option, text in (("--optimizers", optimizers), ("--suite", ",".join(suites))):
        if absolute := [part for part in text.split(",") if Path(part.strip()).is_absolute()]:
            raise UserError(f"{option} {absolute[0]} is an absolute path, which is the same file "
                            "in base and head; write it relative to this folder")


def _offer_installed(tree: CodeTree) -> None:
    """Let this process find the optimizers and suites that a tree's package offers."""
    from bench_apts.plugins import registry

    sys.path.insert(0, str(tree.root))
    registry.forget()


def _resolve_request(
    suites: tuple[str, ...], gpus: str | None, optimizers: str | None,
    overrides: tuple[str, ...], data_dir: Path | None, offline: bool,
) -> GateRequest:
    """Resolve what both trees train."""
    from bench_apts.core import gpu_devices
    from bench_apts.plugins import selection
    from bench_apts.regress.gate_trainings import GateRequest
    from bench_apts.study import resolve

    notes: list[str] = []
    there = gpu_devices.gpu_count()
    _, ranks = resolve.world_sizes(gpus or ("1" if there == 1 else "1,2"), notes)
    chosen = selection.select(_DEFAULT if optimizers is None else optimizers,
                               optional=optimizers is None)
    for note in (*notes, *chosen.notes):
        _print_now(f"note: {note}")
    return GateRequest(suites, ranks, tuple(chosen.selectors), overrides,
                       data_dir.absolute() if data_dir else None, offline)


def _print_now(text: str) -> None:
    print(text, flush=True)


def _new(folder: Path) -> Path:
    """Make a folder; an empty one may be left of a command that ended early."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a folder; name a new one") from error
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder")
    return folder


def _write(file: Path | None, text: str) -> None:
    if file:
        if file.exists():  # to replace a device would break the system
            require_regular_file(file, "name one", "--markdown")
        session.write_table_file(file, f"{text}\n".encode(), "name another file with --markdown")
