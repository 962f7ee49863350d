"""``bench-apts run``: tune, freeze, report; ends in an HTML file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from typer import Option

from bench_apts.cli import session
from bench_apts.cli.config_file import ConfigFile
from bench_apts.core.job import GRACE_S


def command(
    config: ConfigFile = None,
    suite: session.Suites = None,
    gpus: session.Gpus = None,
    device: session.DeviceOf = "auto",
    optimizers: session.Optimizers = None,
    trials: session.Trials = 8,
    seeds: Annotated[int, Option(
        min=1, help="Fresh seeds that each frozen configuration is reported on.")] = 3,
    base_seed: session.BaseSeed = 0,
    twins: Annotated[bool, Option(
        help="Report the first optimizer twice at each N: the two tell how far times scatter "
             "on this machine.")] = True,
    sampler: session.SamplerOf = "random",
    pruner: session.PrunerOf = "none",
    space: session.SpaceOf = "narrow",
    share: session.Share = True,
    data_dir: session.DataDir = None,
    out: session.Out = Path("results"),
    study: session.StudyName = None,
    set_: session.Changes = None,
    shared: session.Shared = False,
    shard: session.ShardOf = None,
    jobs: session.JobsOf = 1,
    jobs_timed: Annotated[bool, Option(
        "--jobs-timed", help="Run the final trainings side by side too, though what they are for "
                             "is measured times.")] = False,
    checkpoint_every: session.CheckpointEvery = None,
    grace: session.Grace = GRACE_S,
    nodes: session.Nodes = None,
    node_rank: session.NodeRank = None,
    rendezvous: session.Rendezvous = None,
    rendezvous_timeout: session.Patience = 600,
    page: Annotated[bool, Option(
        "--report/--no-report", help="Build the report when all trials have ended.")] = True,
    dry_run: Annotated[bool, Option(
        "--dry-run", help="Print the plan and its estimated cost, run nothing.")] = False,
    offline: session.Offline = False,
) -> None:
    """Compare optimizers at several world sizes and write a report."""
    from bench_apts.study import resolve

    console = session.progress_console()
    session.choose_device(device)
    place = session.find_placement_of_command(console, nodes, node_rank, rendezvous)
    resolved, notes = resolve.resolve_study(
        suites=suite, overrides=tuple(set_ or ()), gpus=gpus,
        optimizers=optimizers, trials=trials, seeds=seeds, base_seed=base_seed, twins=twins,
        sampler=sampler, pruner=pruner, space=space, share=share, nodes=place.nodes,
        config=config)
    execution = session.make_execution(
        console, resolved, place, jobs, True, jobs_timed, shared, shard, checkpoint_every, grace)
    folder = session.study_folder(out, study, resolved.suites)
    plan = session.make_plan(console, resolved, notes, data_dir, offline)
    if dry_run:
        session.print_estimate(console, plan, folder)
        return

    def report() -> None:
        if not page:
            console.print(f"results: {folder}; `bench-apts report {shlex.quote(str(folder))}` "
                          "builds the report", soft_wrap=True)
            return
        from bench_apts.reports import build

        console.print("building the report")
        console.print(f"report: {build(folder)}")

    session.run_study(console, plan, folder, execution, report, place, rendezvous_timeout)
