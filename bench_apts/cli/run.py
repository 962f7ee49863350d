"""``bench-apts run``: tune, freeze, report; ends in an HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from bench_apts.cli import options, session
from bench_apts.core.job import GRACE_S


def command(
    suite: options.Suites = None,
    gpus: options.Gpus = None,
    optimizers: options.Optimizers = None,
    trials: options.Trials = 8,
    seeds: Annotated[int, Option(
        min=1, help="Fresh seeds that each frozen configuration is reported on.")] = 3,
    base_seed: options.BaseSeed = 0,
    twins: Annotated[bool, Option(
        help="Report the first optimizer twice at each N: the two tell how far times scatter "
             "on this machine.")] = True,
    sampler: options.SamplerOf = "random",
    pruner: options.PrunerOf = "none",
    space: options.SpaceOf = "narrow",
    share: options.Share = True,
    data_dir: options.DataDir = None,
    out: options.Out = Path("results"),
    study: options.StudyName = None,
    set_: options.Changes = None,
    shared: options.Shared = False,
    shard: options.ShardOf = None,
    jobs: options.JobsOf = 1,
    jobs_timed: Annotated[bool, Option(
        "--jobs-timed", help="Run the final trainings side by side too, though what they are for "
                             "is measured times.")] = False,
    checkpoint_every: options.CheckpointEvery = None,
    grace: options.Grace = GRACE_S,
    nodes: options.Nodes = None,
    node_rank: options.NodeRank = None,
    rendezvous: options.Rendezvous = None,
    rendezvous_timeout: options.Patience = 600,
    dry_run: Annotated[bool, Option(
        "--dry-run", help="Print the plan and its estimated cost, run nothing.")] = False,
    offline: options.Offline = False,
) -> None:
    """Compare optimizers at several world sizes and write a report."""
    from bench_apts.study import resolve
    from bench_apts.study.execution import Execution
    from bench_apts.study.splitting import shards

    console = session.console()
    place = session.place(console, nodes, node_rank, rendezvous)
    resolved, notes = resolve.study(
        suites=suite or ["digits"], overrides=tuple(set_ or ()), gpus=gpus,
        optimizers=optimizers, trials=trials, seeds=seeds, base_seed=base_seed, twins=twins,
        sampler=sampler, pruner=pruner, space=space, share=share, nodes=place.nodes)
    part = shards.parse(shard, resolved)
    side_by_side = session.jobs(console, jobs, jobs_timed, resolved, place)
    execution = Execution(shared or side_by_side.count > 1, True, part, side_by_side,
                          checkpoint_every, grace)
    folder = session.folder(out, study, resolved.suites)
    plan = session.plan(console, resolved, notes, data_dir, offline)
    if dry_run:
        from bench_apts.study.estimate import lines

        for line in lines(plan, folder):
            console.print(line, markup=False)
        return

    def report() -> None:
        from bench_apts.reports import build

        console.print("building the report")
        console.print(f"report: {build(folder)}", markup=False)

    session.run(console, plan, folder, execution, report, place, rendezvous_timeout)
