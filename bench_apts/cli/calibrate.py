"""``bench-apts calibrate``: set a suite's target by one rule, from trials of SGD and AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from bench_apts.cli import session
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from bench_apts.core.spec import Target
    from bench_apts.study.target_calibration import CalibrationOutcome, Candidate


def command(
    suite: Annotated[str, Argument(
        metavar="NAME|FILE", help="Suite by name or TOML file.", show_default=False)],
    trials: Annotated[int, Option(
        min=1, help="Tuning trials of each optimizer.")] = 20,
    seeds: Annotated[int, Option(
        min=2, help="Fresh seeds that each optimizer's best configuration is rerun on.")] = 5,
    optimizers: Annotated[str, Option(
        metavar="NAME|FILE,…", help="Optimizers to take the better one of.")] = "sgd,adam",
    gpus: Annotated[str, Option(metavar="N", help="World size.")] = "1",
    device: session.DeviceOf = "auto",
    base_seed: session.BaseSeed = 0,
    write: Annotated[bool, Option(
        "--write", help="Write the target into the suite's file; its comments stay.")] = False,
    data_dir: session.DataDir = None,
    out: session.Out = Path("results"),
    jobs: session.JobsOf = 1,
    dry_run: Annotated[bool, Option(
        "--dry-run", help="Print the plan and its estimated cost, run nothing.")] = False,
    offline: session.Offline = False,
) -> None:
    """Set a suite's target by measurement, and print it.

    The best of --trials configurations of each optimizer, by the validation metric at the end of
    the budget, is rerun on --seeds seeds. The target is the better median less one standard
    deviation, rounded towards easier.
    """
    from msgspec.structs import replace

    from bench_apts.core import store
    from bench_apts.study import resolve, target_calibration
    from bench_apts.study.plan import Plan
    from bench_apts.study.preflight import prepare_data

    if len(resolve.parse_sizes("--gpus", gpus)) > 1:
        raise UserError(f"--gpus {gpus}: a suite is calibrated at one world size")
    path = target_calibration.require_writable_file(suite) if write and not dry_run else None
    console = session.progress_console()
    session.choose_device(device)
    place = session.find_placement_of_command(console, None, None, None)
    resolved, notes = resolve.resolve_study(
        suites=[suite], overrides=target_calibration.missing_target(suite), gpus=gpus,
        optimizers=optimizers, trials=trials, seeds=seeds, base_seed=base_seed, twins=False,
        nodes=place.nodes)
    resolved = replace(resolved, suites=tuple(map(target_calibration.neutral, resolved.suites)))
    (chosen,) = resolved.suites
    execution = session.make_execution(console, resolved, place, jobs)
    variant = chosen.name.partition("@")[2]
    folder = session.study_folder(out, f"calibration-{chosen.name}", resolved.suites)
    for note in notes:
        console.print(f"note: {note}")
    plan = Plan(resolved, prepare_data(resolved, data_dir, offline), target_calibration.choose,
                None)
    if dry_run:
        session.print_estimate(console, plan, folder)
        return

    def report() -> None:
        candidates = target_calibration.read_candidates(plan, store.read_trials(folder))
        _table(candidates)
        found = target_calibration.decide_target(chosen, candidates)
        target = _target(found, folder)
        console.print(f"\n{target_calibration.target_fragment(target, variant)}\n")
        if found.trivial:
            console.print("note: an untrained network reaches this target; the trials learn "
                          "nothing, raise budget.samples or correct the problem")
        console.print(f"results: {folder}")
        if path:
            target_calibration.write_target(path, target, variant)
            console.print(f"written to {path}")
        else:
            console.print("put it into the suite's file, or let --write do so")

    session.run_study(console, plan, folder, execution, report, place, 600)


def _target(found: CalibrationOutcome, folder: Path) -> Target:
    import datetime as dt

    from msgspec.structs import replace

    from bench_apts.core import store
    from bench_apts.study.target_calibration import provenance

    file = store.read_study(folder)
    today = dt.datetime.now(dt.UTC).date()
    return replace(found.target, provenance=provenance(found, file.study, file.environment, today))


def _table(candidates: tuple[Candidate, ...]) -> None:
    from rich.table import Table

    from bench_apts.study.target_calibration import count_trials

    table = Table("optimizer", "tuning trials", "best", "configuration", "reruns",
                  "final values", "median", "deviation", box=None)
    for each in candidates:
        table.add_row(
            each.label, count_trials(each.tuned), _number(each.best),
            ", ".join(f"{name}={value}" for name, value in (each.configuration or {}).items())
            or "-",
            count_trials(each.statuses), ", ".join(map(_number, each.finals)) or "-",
            *(map(_number, (each.bound.median, each.bound.std)) if each.bound else "--"))
    session.table_console().print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
