"""``bench-apts report``: build the report again from the records, running nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bench_apts.core.errors import UserError

_HISTORY = Path(".asv/results")
"""Where asv keeps its results in a checkout."""


def command(
    results: Annotated[list[Path], Argument(
        metavar="RESULTS [RESULTS]", show_default=False,
        help="A results folder, for instance results/digits; or two, to compare B with A.")],
    form: Annotated[str | None, Option(
        "--format", show_default=False,
        help="What to write, of html, csv, svg, png, json, md, pdf and notebook.  [default: html, "
             "csv, svg and json]")] = None,
    out: Annotated[Path | None, Option(
        help="Folder to write to.  [default: the results folder, of two the second]",
        show_default=False)] = None,
    history: Annotated[Path | None, Option(
        help="Folder with asv's results, to show numbers over commits.  [default: .asv/results "
             "if the working directory has it]", show_default=False)] = None,
    show: Annotated[bool, Option("--open", help="Open the page in a browser.")] = False,
    tensorboard: Annotated[Path | None, Option(
        help="Folder to write all trials to as runs of TensorBoard.", metavar="DIR",
        show_default=False)] = None,
    wandb: Annotated[Path | None, Option(
        help="The same as offline runs of Weights & Biases.", metavar="DIR",
        show_default=False)] = None,
    mlflow: Annotated[Path | None, Option(
        help="The same as runs of MLflow.", metavar="DIR", show_default=False)] = None,
) -> None:
    """Build the report of a results folder, or of two side by side."""
    from bench_apts.reports import STANDARD, build, compare

    formats = STANDARD if form is None else tuple(name.strip() for name in form.split(","))
    if show and "html" not in formats:
        raise UserError("--open shows the page, but --format does not ask for html; add it")
    chosen = {tracker: folder for tracker, folder in (
        ("tensorboard", tensorboard), ("wandb", wandb), ("mlflow", mlflow)) if folder}
    if chosen:
        _export(results, chosen)
    match results:
        case [folder]:
            if history is None and any(_HISTORY.glob("*/*-*.json")):  # else nothing ran yet
                history = _HISTORY
            path = build(folder, formats, out=out, history=history)
        case [first, second]:
            if history is not None:
                raise UserError("--history belongs to the report of one results folder")
            path = compare(first, second, formats, out=out)
        case _:
            raise UserError(f"expected one or two results folders, got {len(results)}")
    print(f"report: {path}")
    if show:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            print(f"note: no browser could be started; open {path} by hand")


def _export(results: list[Path], chosen: dict[str, Path]) -> None:
    """Write the trials of one results folder into the folders of trackers."""
    from bench_apts.core.store import collect_only_new
    from bench_apts.reports.gather import gather
    from bench_apts.reports.tracker_exports import export

    if len(results) != 1:
        raise UserError(f"--{next(iter(chosen))} belongs to the report of one results folder")
    with collect_only_new(lambda: gather(results[0])) as gathered:
        for tracker, folder in chosen.items():
            count = export(gathered, tracker, folder)  # type: ignore[arg-type]
            print(f"{tracker}: {count} runs in {folder}")
