"""What commands share: options, consoles, files of tables, and running a study to its end."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from bench_apts.core.errors import UserError, one_line
from bench_apts.core.job import GRACE_S
from bench_apts.core.spec import Pruner, Sampler, Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from bench_apts.core.spec import Study, Suite
    from bench_apts.launch.cluster import Placement
    from bench_apts.study.execution import Execution
    from bench_apts.study.plan import Plan

Device = Literal["auto", "cuda", "cpu"]

Results = Annotated[Path, Argument(
    metavar="RESULTS", help="A results folder, for instance results/digits.")]
Suites = Annotated[list[str] | None, Option(
    "--suite", metavar="NAME|FILE", help="Suite by name or TOML file, or its variant: "
                                         "NAME@VARIANT; repeatable.  [default: digits]",
    show_default=False)]
Gpus = Annotated[str | None, Option(
    metavar="N,N,…", help="World sizes, for instance 1,2,4,8, on the device of --device.  "
                          "[default: 1 and all GPUs, or all cores]",
    show_default=False)]
DeviceOf = Annotated[Device, Option(
    "--device", help="Run ranks on GPUs, one each (cuda), or as processes on the CPU (cpu); auto "
                     "takes GPUs where there are any.")]
Optimizers = Annotated[str | None, Option(
    metavar="NAME|FILE,…",
    help="Competitors, for instance apts,sgd[lr=[0.1,0.2]],my_optimizer.py; groups: all, "
         "tuning-free, low-communication, paper; -NAME takes one back.  [default: apts, SGD, "
         "AdamW, NAdamW, Schedule-Free, Prodigy, local-adam and ZeRO, as far as they run here]",
    show_default=False)]
Trials = Annotated[int, Option(
    min=0, help="Tuning trials at each N of each optimizer that needs tuning; 0 takes "
                "defaults.")]
BaseSeed = Annotated[int, Option(help="What all seeds are derived from.")]
SamplerOf = Annotated[Sampler, Option(
    "--sampler", help="How configurations are drawn: independently (random), evenly (halton, "
                      "grid) or learning from earlier trials (tpe).")]
PrunerOf = Annotated[Pruner, Option(
    "--pruner", help="Rule by which hopeless tuning trials are given up early.")]
SpaceOf = Annotated[Space, Option(
    "--space", help="Search space, of optimizers that declare two.")]
Share = Annotated[bool, Option(
    help="Let ZeRO take over what adam's search found, once it is seen to take the same course.")]
DataDir = Annotated[Path | None, Option(
    envvar="BENCH_APTS_DATA", help="Folder with data sets, see docs/data.md.")]
Out = Annotated[Path, Option(help="Folder that results folders are made in.")]
StudyName = Annotated[str | None, Option(
    "--study", metavar="NAME", help="Name of the results folder.  [default: the suites' names]",
    show_default=False)]
Changes = Annotated[list[str] | None, Option(
    "--set", metavar="KEY=VALUE", help="Change a suite, for instance suite.budget.samples=10000; "
                                       "repeatable.", show_default=False)]
Shared = Annotated[bool, Option(
    "--shared", help="Work on the study together with other commands that say so too.")]
ShardOf = Annotated[str | None, Option(
    "--shard", metavar="I/K", help="Run only the I-th of K parts, each in a results folder of its "
                                   "own; `bench-apts merge` joins them.", show_default=False)]
JobsOf = Annotated[int, Option(
    "--jobs", min=1, help="Tuning trials to run side by side, as far as cores or GPUs carry "
                          "them; their times are disturbed.")]
Nodes = Annotated[int | None, Option(
    "--nodes", min=1, help="Run the ranks on several machines: start the same command on each, "
                           "see docs/machines.md.  [default: 1, or as torchrun or srun say]",
    show_default=False)]
NodeRank = Annotated[int | None, Option(
    "--node-rank", min=0, help="Which of the machines this is; 0 leads and holds the results.",
    show_default=False)]
Rendezvous = Annotated[str | None, Option(
    "--rendezvous", metavar="HOST:PORT", help="Where node 0 waits for the others.",
    show_default=False)]
Patience = Annotated[int, Option(
    "--rendezvous-timeout", min=1, max=604_800, metavar="SECONDS",
    help="For how long the machines wait for each other at the start.")]
CheckpointEvery = Annotated[int | None, Option(
    "--checkpoint-every", min=1, metavar="SAMPLES",
    help="Write a checkpoint after each SAMPLES of a trial, at the next evaluation.  [default: "
         "only when SIGTERM ends the command]", show_default=False)]
Grace = Annotated[float, Option(
    "--grace", min=0.0, max=86_400.0, metavar="SECONDS",
    help="How long SIGTERM leaves a trial to write a checkpoint before it is killed.")]
Offline = Annotated[bool, Option("--offline", help="Never download anything.")]


TABLES = "copy the results folder to where you can write, to have its tables too"
"""The remedy where the results folder cannot be written to."""


def progress_console() -> Console:
    """Return the console for progress and notes."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, markup=False)


def table_console() -> Console:
    """Return the console for tables, without line breaks where no terminal has an edge."""
    from rich.console import Console

    found = Console(highlight=False, markup=False)
    if not found.is_terminal:
        found.width = 1000
    return found


def plain_text(text: str) -> str:
    """Replace the spaces and hyphens at which a web page does not break by plain ones."""
    return text.replace("\u202f", " ").replace("\u2011", "-")


def require_finite_factor(factor: float) -> None:
    """Refuse a ``--factor`` that tolerates everything.

    Raises:
        UserError: It is infinite or not a number.
    """
    if not math.isfinite(factor):
        raise UserError(f"--factor {factor} tolerates everything; give a number, for instance 1.1")


def write_table_file(path: Path, content: bytes, remedy: str) -> None:
    """Write a file of a command's numbers, and make its folders.

    Raises:
        UserError: It cannot be written; ``remedy`` is part of the message.
    """
    from bench_apts.core.files import write_bytes

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; {remedy}") from error


def choose_device(device: Device) -> None:
    """Do what ``--device`` says, for this process and those that it starts.

    Raises:
        UserError: Ranks are to run on GPUs, and there is none.
    """
    from bench_apts.core import gpu_devices

    if device == "cpu":
        os.environ[gpu_devices.VISIBLE] = ""
    elif device == "cuda" and not gpu_devices.gpu_count():
        setting = os.environ.get(gpu_devices.VISIBLE)
        hidden = "" if setting is None else f" with {gpu_devices.VISIBLE}={setting}"
        raise UserError(f"--device cuda: there is no GPU here{hidden}; see whether nvidia-smi "
                        "shows one, or run CPU ranks with --device cpu")


def find_placement_of_command(
    out: Console, nodes: int | None, node_rank: int | None, rendezvous: str | None
) -> Placement:
    """Find which of how many nodes this one is; remove torchrun's variables from the environment.

    Raises:
        UserError: The options contradict the environment, or no trial could run in it.
    """
    from bench_apts.core import process_limits
    from bench_apts.launch import cluster

    process_limits.openmp_threads()
    process_limits.require_address_space()
    # Set before torch is imported: its sockets log at length what we report in a line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    if note := cluster.unused_nodes_hint(os.environ):
        out.print(f"note: {note}")
    return cluster.find_placement(nodes, node_rank, rendezvous, os.environ)


def study_folder(out: Path, study: str | None, suites: Sequence[Suite]) -> Path:
    """Return a study's results folder, named after its suites unless the user names it.

    Raises:
        UserError: The user's name is a path, or no name at all.
    """
    if study is not None and (study in ("", "..") or Path(study).name != study):
        raise UserError(f"--study {study}: write a name, for instance before; --out says in which "
                        "folder it lies")
    return out / (study or "+".join(suite.name for suite in suites))


def make_execution(
    out: Console, resolved: Study, place: Placement, jobs: int, reports: bool = True,
    jobs_timed: bool = False, shared: bool = False, shard: str | None = None,
    checkpoint_every: int | None = None, grace_s: float = GRACE_S,
) -> Execution:
    """Make one description of how a command runs trials; notes where they are fewer at once.

    Raises:
        UserError: ``--shard`` is malformed, or ``--jobs`` meets ranks on several machines.
    """
    from bench_apts.study.execution import Execution, fitting_jobs, parse_shard

    part = parse_shard(shard, resolved)
    if jobs > 1 and place.nodes > 1:
        raise UserError("--jobs is for one machine, and --nodes spreads each trial over several; "
                        "leave one of them out")
    count, note = fitting_jobs(jobs, resolved)
    if note:
        out.print(f"note: {note}")
    return Execution(reports, shared or count > 1, part, count, jobs_timed, checkpoint_every,
                     grace_s)


def make_plan(
    out: Console, resolved: Study, notes: Sequence[str], data_dir: Path | None, offline: bool
) -> Plan:
    """Print the notes, prepare the data and plan the trials."""
    from bench_apts.study.plan import Plan
    from bench_apts.study.preflight import prepare_data

    for note in notes:
        out.print(f"note: {note}")
    return Plan(resolved, prepare_data(resolved, data_dir, offline))


def print_estimate(out: Console, planned: Plan, folder: Path) -> None:
    """Print what ``--dry-run`` promises: the plan and its estimated cost."""
    from bench_apts.study.preflight import estimate_lines

    for line in estimate_lines(planned, folder):
        out.print(line)


_RESUMABLE = "finished trials are kept {}; the same command goes on from there"


@contextlib.contextmanager
def end_in_order(message: str = "") -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the block with a line and the exit code that shells expect."""
    from bench_apts.core.interrupts import Interrupted, interruptible

    try:
        with interruptible():
            yield
    except Interrupted as error:
        print(f"interrupted: {message}" if message else "interrupted")
        raise typer.Exit(128 + error.number) from error


def run_study(
    out: Console, plan: Plan, folder: Path, execution: Execution, then: Callable[[], None],
    place: Placement, patience_s: float,
) -> None:
    """Run a plan in its folder and finish with ``then``; say which trials failed.

    On several machines node 0 does so, and the others run their ranks of its trials. A shard
    leaves ``then`` to the command that runs the whole.

    Raises:
        Exit: With code 1, if no trial of an optimizer ran to an end.
        EnvironmentFailure: The environment let no further trial start.
    """
    from bench_apts.core import store
    from bench_apts.study import attempts, node_follower, node_leader, scheduler, shared_folder
    from bench_apts.study.progress import StudyProgress

    if place.rank:
        with end_in_order(_RESUMABLE.format("by node 0")):
            code = node_follower.follow_node_0(
                plan, place, patience_s, execution.grace_s, out.print)
        raise typer.Exit(code)
    with (node_leader.leading_nodes(plan, place, patience_s, out.print) as leader,
          shared_folder.open_results_folder(folder, execution.shared),
          end_in_order(_RESUMABLE.format(f"in {folder}"))):
        progress = StudyProgress(out)
        try:
            with progress.shown():
                missing = scheduler.run_study(plan, folder, progress, execution, leader)
        except attempts.EnvironmentFailure:
            if any(map(attempts.ran_to_its_end, store.read_trials(folder))):
                then()
            raise
        failed = {name: count for name, count in progress.statuses.items()
                  if name in ("error", "oom", "timeout")}
        without = (attempts.optimizers_without_result(plan, store.read_trials(folder))
                   if failed else [])
        if leader:
            leader.dismiss(int(bool(without)))
        if failed:
            out.print("note: " + ", ".join(f"{count} {status}" for status, count in failed.items())
                      + " among the trials; the report says why")
        if missing:
            out.print(missing)
        else:
            then()
        for line in without:
            print(f"bench-apts: {one_line(line)}", file=sys.stderr)
        if without:
            raise typer.Exit(1)
