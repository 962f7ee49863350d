"""``bench-apts tune``: search only; `run` with the same options then goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench_apts.cli import options, session, terminal
from bench_apts.core.job import GRACE_S

if TYPE_CHECKING:
    from bench_apts.core.spec import Scalar


def command(
    suite: options.Suites = None,
    gpus: options.Gpus = None,
    optimizers: options.Optimizers = None,
    trials: options.Trials = 8,
    base_seed: options.BaseSeed = 0,
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
    checkpoint_every: options.CheckpointEvery = None,
    grace: options.Grace = GRACE_S,
    nodes: options.Nodes = None,
    node_rank: options.NodeRank = None,
    rendezvous: options.Rendezvous = None,
    rendezvous_timeout: options.Patience = 600,
    offline: options.Offline = False,
) -> None:
    """Search hyperparameters only, and print what would be frozen."""
    from rich.table import Table

    from bench_apts.core import trial_files
    from bench_apts.study import resolve
    from bench_apts.study.execution import Execution
    from bench_apts.study.splitting import shards

    console = session.console()
    place = session.place(console, nodes, node_rank, rendezvous)
    resolved, notes = resolve.study(
        suites=suite or ["digits"], overrides=tuple(set_ or ()), gpus=gpus,
        optimizers=optimizers, trials=trials, seeds=1, base_seed=base_seed, twins=False,
        sampler=sampler, pruner=pruner, space=space, share=share, nodes=place.nodes)
    part = shards.parse(shard, resolved)
    side_by_side = session.jobs(console, jobs, False, resolved, place)
    execution = Execution(shared or side_by_side.count > 1, False, part, side_by_side,
                          checkpoint_every, grace)
    folder = session.folder(out, study, resolved.suites)
    plan = session.plan(console, resolved, notes, data_dir, offline)

    def words(values: dict[str, Scalar]) -> str:
        return ", ".join(f"{name}={value}" for name, value in values.items())

    def frozen() -> None:
        read = trial_files.read(folder)
        records = read.records
        table = Table("suite", "optimizer", "N", "trials", "fastest to the target",
                      "best at the end of the budget", box=None)
        for cell in plan.cells:
            mine = [r for r in records if plan.belongs(r, cell)]
            fastest, best = plan.freeze(cell, records), plan.second(cell, records)
            table.add_row(
                cell.suite.name, cell.entry.label, str(cell.ranks),
                str(len(mine)) if plan.tuned(cell) else "not tuned",
                "none got that far" if fastest is None else words(fastest),
                "" if not plan.tuned(cell) or fastest is None
                else "the same" if best is None else words(best))
        terminal.console().print(table)
        if read.copies:
            console.print(f"note: {trial_files.left_out(read.copies)}", markup=False)
        console.print(f"results: {folder}", markup=False)

    session.run(console, plan, folder, execution, frozen, place, rendezvous_timeout)
