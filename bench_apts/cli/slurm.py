"""``bench-apts slurm``: submit a ``run`` to SLURM by submitit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from bench_apts.cli import session
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from bench_apts.launch.cluster import BatchCommand

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""For Typer: all other options are those of ``run``."""

_MARGIN_S = 60
"""From the end of the grace period to the end of the job, for requeuing it."""


def command(
    context: typer.Context,
    nodes: Annotated[int, Option(min=1, help="Machines that share the ranks.")] = 1,
    time: Annotated[str, Option(
        metavar="MINUTES|H:M:S|D-H:M:S", help="Time limit of the job.")] = "60",
    partition: Annotated[str | None, Option(help="SLURM partition.", show_default=False)] = None,
    account: Annotated[str | None, Option(help="SLURM account.", show_default=False)] = None,
    gpus_per_node: Annotated[int, Option(min=0, help="GPUs of each machine.")] = 0,
    cpus_per_node: Annotated[int | None, Option(
        min=1, help="Cores of each machine.", show_default=False)] = None,
    sbatch: Annotated[list[str] | None, Option(
        metavar="KEY=VALUE", help="Any other option of sbatch, for instance qos=long; repeatable.",
        show_default=False)] = None,
    setup: Annotated[list[str] | None, Option(
        help="Shell line before the study, for instance 'module load cuda'; repeatable.",
        show_default=False)] = None,
    requeues: Annotated[int, Option(
        min=0, help="How often the job is queued again when its time is up.")] = 3,
    print_: Annotated[bool, Option(
        "--print/--submit", help="Print the batch script, or submit it.")] = False,
    cluster: Annotated[Literal["slurm", "local"], Option(
        help="Where to: SLURM, or this machine in the background, to try a job out.")] = "slurm",
) -> None:
    """Submit a study to SLURM; all other options are those of `run`."""
    parameters = _run_parameters(context)
    minutes = _minutes(time)
    if cluster == "local" and nodes > 1:
        raise UserError("--cluster local is this machine alone; leave --nodes out")
    folder = _folder(parameters).absolute() / "slurm"
    delay = int(parameters["grace"]) + _MARGIN_S
    options: dict[str, Any] = {
        "job_name": f"bench-apts-{folder.parent.name}", "nodes": nodes, "ntasks_per_node": 1,
        "time": minutes, "gpus_per_node": gpus_per_node or None, "cpus_per_task": cpus_per_node,
        "setup": setup, "partition": partition, "account": account, "signal_delay_s": delay,
        "additional_parameters": _pairs(sbatch or [])}
    out = session.progress_console()
    if print_:
        out.print(_script(folder, options), end="")
        return
    from bench_apts.launch.cluster import BatchCommand, bench_apts_command

    task = BatchCommand(bench_apts_command(["run", *context.args]), delay - _MARGIN_S / 2)
    job = _submit(folder, cluster, requeues, options, task)
    out.print(f"job {job.job_id}: its output goes to {job.paths.stdout} and {job.paths.stderr}")
    if cluster == "slurm":
        out.print(f"when its time is up it is queued again, up to {requeues} times; `scontrol "
                  f"requeue {job.job_id}` or the same command go on from where it stood")
    out.print(f"report: {folder.parent / 'report.html'}, once the job is done")


def _run_parameters(context: typer.Context) -> dict[str, Any]:
    """Parse the options of ``run``, so that errors show before the job waits in a queue."""
    assert context.parent is not None
    group: Any = context.parent.command
    run = group.get_command(context.parent, "run")
    parameters: dict[str, Any] = run.make_context(
        "run", list(context.args), parent=context.parent).params
    for option, name in (("--node-rank", "node_rank"), ("--rendezvous", "rendezvous")):
        if parameters[name] is not None:
            raise UserError(f"{option} is not for `slurm`: srun assigns each node its number")
    return parameters


def _folder(parameters: dict[str, Any]) -> Path:
    """Return the study's results folder, after looking up its suites and optimizers."""
    from bench_apts.plugins import selection
    from bench_apts.study import resolve

    suites = resolve.chosen_suites(
        parameters["suite"], tuple(parameters["set_"] or ()), parameters["config"], []).suites
    if parameters["optimizers"] is not None:
        for selector in selection.select(parameters["optimizers"]).selectors:
            resolve.resolve_entry(selector)
    return session.study_folder(parameters["out"], parameters["study"], suites)


def _minutes(text: str) -> int:
    """Read a time limit as sbatch does, in minutes, rounded up."""
    found = re.fullmatch(r"(\d{1,9})", text) or re.fullmatch(
        r"(?:(?P<d>\d{1,4})-)?(?P<h>\d{1,5})(?::(?P<m>\d{1,2}))?(?::(?P<s>\d{1,2}))?", text)
    if found and found.re.groups == 1:
        minutes = int(found[1])
    elif found:
        days, hours, mins, seconds = (int(found[key] or 0) for key in "dhms")
        if not found["d"] and not found["s"]:  # minutes:seconds
            hours, mins, seconds = 0, hours, mins
        minutes = ((days * 24 + hours) * 60 + mins) + (seconds > 0)
    else:
        minutes = 0
    if minutes < 1:
        raise UserError(f"--time {text}: write minutes, H:M:S or D-H:M:S, for instance 4:00:00")
    return minutes


def _pairs(texts: list[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.removeprefix("--").partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", key) or (sign and not value):
            raise UserError(f"--sbatch {text}: write an option of sbatch as KEY=VALUE, or KEY "
                            "alone, for instance qos=long or exclusive")
        pairs[key] = value if sign else True
    return pairs


def _script(folder: Path, options: dict[str, Any]) -> str:
    """Return the batch script that submitit would submit; needs no SLURM."""
    from submitit import SlurmExecutor

    class Printer(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = Printer(folder)
    executor.update_parameters(**options)
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def _submit(
    folder: Path, cluster: str, requeues: int, options: dict[str, Any], task: BatchCommand
) -> Any:
    """Write the batch script and the task into ``folder`` and submits them."""
    from submitit import LocalExecutor, SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if cluster == "slurm" and missing:
        raise UserError(f"there is no {missing[0]} here, so no SLURM to submit to; go to a login "
                        "node of the cluster, or see the script with --print")
    executor: LocalExecutor | SlurmExecutor
    try:
        if cluster == "local":
            executor = LocalExecutor(folder, max_num_timeout=requeues)
            executor.update_parameters(
                timeout_min=options["time"], gpus_per_node=options["gpus_per_node"] or 0,
                signal_delay_s=options["signal_delay_s"], setup=options["setup"] or ())
        else:
            executor = SlurmExecutor(folder, max_num_timeout=requeues)
            executor.update_parameters(**options)
        return executor.submit(task)
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"sbatch refused the job: {error}") from error
