"""``bench-apts tune``: search only; `run` with the same options then continues from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench_apts.cli import session
from bench_apts.cli.config_file import ConfigFile
from bench_apts.core.job import GRACE_S

if TYPE_CHECKING:
    from bench_apts.core.spec import Scalar


def command(
    config: ConfigFile = None,
    suite: session.Suites = None,
    gpus: session.Gpus = None,
    device: session.DeviceOf = "auto",
    optimizers: session.Optimizers = None,
    trials: session.Trials = 8,
    base_seed: session.BaseSeed = 0,
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
    checkpoint_every: session.CheckpointEvery = None,
    grace: session.Grace = GRACE_S,
    nodes: session.Nodes = None,
    node_rank: session.NodeRank = None,
    rendezvous: session.Rendezvous = None,
    rendezvous_timeout: session.Patience = 600,
    offline: session.Offline = False,
) -> None:
    """Search hyperparameters only, and print what would be frozen."""
    from rich.table import Table

    from bench_apts.core import store, trial_files
    from bench_apts.study import resolve

    console = session.progress_console()
    session.choose_device(device)
    place = session.find_placement_of_command(console, nodes, node_rank, rendezvous)
    resolved, notes = resolve.resolve_study(
        suites=suite, overrides=tuple(set_ or ()), gpus=gpus,
        optimizers=optimizers, trials=trials, seeds=1, base_seed=base_seed, twins=False,
        sampler=sampler, pruner=pruner, space=space, share=share, nodes=place.nodes,
        config=config)
    execution = session.make_execution(
        console, resolved, place, jobs, False, False, shared, shard, checkpoint_every, grace)
    folder = session.study_folder(out, study, resolved.suites)
    plan = session.make_plan(console, resolved, notes, data_dir, offline)

    def words(values: dict[str, Scalar]) -> str:
        return ", ".join(f"{name}={value}" for name, value in values.items())

    def frozen() -> None:
        read = store.read_trial_files(folder)
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
        session.table_console().print(table)
        if read.copies:
            console.print(f"note: {trial_files.left_out(read.copies)}")
        console.print(f"results: {folder}")

    session.run_study(console, plan, folder, execution, frozen, place, rendezvous_timeout)
