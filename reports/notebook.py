"""A small executed notebook over a report's files: a start for plots of one's own.

Its format is nbformat 4.5, written without a library of Jupyter. The cells are executed here, one
after the other in one namespace, as a kernel would, so that no kernel needs to be installed.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "report.ipynb"

_CELLS = (
    ("markdown", """# Numbers of a bench-apts report

`report.json` holds every table of the page, `tables/curves.csv` every evaluation of every final
training; docs/formats.md describes both. This notebook loads them and draws the two main figures
again, as a start for your own."""),
    ("code", """import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

report = json.loads(Path("report.json").read_text(encoding="utf-8"))
tables = {name: pd.DataFrame(rows) for name, rows in report["tables"].items()}
curves = pd.read_csv("tables/curves.csv")
for suite in report["suites"]:
    for decision in suite["decisions"]:
        print(f"{suite['name']}, {decision['heading']}: {decision['headline']}")"""),
    ("code", """unit = "samples" if report["device"] == "cpu" else "core_seconds"
cost = f"ert_{unit}"
expected = tables["expected"][["suite", "ranks", "optimizer", "hits", "trials", cost,
                               f"{cost}_low", f"{cost}_high"]]
expected"""),
    ("markdown", """## Expected cost to the target, tuning included

With its 95 % interval. An optimizer that never reached the target has no point."""),
    ("code", """places = list(expected.groupby(["suite", "ranks"], sort=False))
figure, panels = plt.subplots(len(places), squeeze=False, sharex=True, layout="constrained",
                              figsize=(7, 1 + 1.6 * len(places)))
for axes, ((suite, ranks), rows) in zip(panels[:, 0], places):
    for at, row in enumerate(rows.itertuples()):
        value, low, high = (getattr(row, f"{cost}{end}") for end in ("", "_low", "_high"))
        if pd.notna(value):
            axes.plot([low, high if pd.notna(high) else value], [at, at], color="0.6")
            axes.plot(value, at, "o")
    axes.set(xscale="log", yticks=range(len(rows)), yticklabels=rows["optimizer"],
             title=f"{suite}, N = {ranks}")
    axes.invert_yaxis()
panels[-1, 0].set_xlabel(f"expected {unit.replace('_', '-')}")
plt.show()"""),
    ("markdown", """## Learning curves

The median over seeds of the target's metric on validation data."""),
    ("code", """places = list(curves.groupby(["suite", "ranks"], sort=False))
figure, panels = plt.subplots(len(places), squeeze=False, layout="constrained",
                              figsize=(7, 2.8 * len(places)))
for axes, ((suite, ranks), rows) in zip(panels[:, 0], places):
    for optimizer, mine in rows.groupby("optimizer", sort=False):
        middle = mine.groupby("evaluation")[["samples", "validation"]].median()
        axes.plot(middle["samples"], middle["validation"], label=optimizer)
    target = next(each["target"] for each in report["suites"] if each["name"] == suite)
    axes.axhline(target["value"], color="0.3", linestyle="--")
    axes.set(title=f"{suite}, N = {ranks}", xlabel="samples, all ranks together",
             ylabel=target["metric"])
    axes.legend()
plt.show()"""))
"""Kind and source of each cell; none knows this study."""


def notebook_document(folder: Path) -> bytes:
    """Execute the notebook in a folder with ``report.json`` and ``tables/``; return its file.

    Raises:
        UserError: A cell fails, as where there is no final training yet.
    """
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells: list[dict[str, Any]] = []
    backend = mpl.get_backend()
    plt.switch_backend("agg")
    try:
        with contextlib.chdir(folder), mpl.rc_context():
            mpl.rcdefaults()
            for index, (kind, source) in enumerate(_CELLS):
                cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{index}", "metadata": {},
                                        "source": source.splitlines(keepends=True)}
                if kind == "code":
                    count = sum(each["cell_type"] == "code" for each in cells) + 1
                    cell |= {"execution_count": count,
                             "outputs": _execute(source, namespace, count)}
                cells.append(cell)
    finally:
        plt.close("all")
        plt.switch_backend(backend)
    return msgspec.json.format(msgspec.json.encode({
        "cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}}), indent=1) + b"\n"


def _execute(source: str, namespace: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run one cell; return what it printed, the value of its last line, and its figures."""
    from matplotlib import pyplot as plt

    printed, tree, value = io.StringIO(), ast.parse(source), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, "<cell>", "exec"), namespace)
            if last is not None:
                assert isinstance(last, ast.Expr)
                value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    except Exception as error:
        raise UserError(f"--format notebook: cell {count} failed on these results: "
                        f"{type(error).__name__}: {error}") from error
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout",
                        "text": text.splitlines(keepends=True)})
    if value is not None:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            shown["text/html"] = value._repr_html_().splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "execution_count": count, "data": shown,
                        "metadata": {}})
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", dpi=90, metadata={"Software": None})
        outputs.append({"output_type": "display_data", "metadata": {}, "data": {
            "image/png": base64.b64encode(picture.getvalue()).decode()}})
        plt.close(number)
    return outputs
