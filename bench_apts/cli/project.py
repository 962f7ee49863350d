"""``bench-apts project``: modelled times at other world sizes and on other networks."""

from __future__ import annotations

import itertools
from typing import Annotated

from typer import Option

from bench_apts.cli import network_options, session
from bench_apts.stats.modelled_training import BatchScaling
from bench_apts.stats.network_model import Algorithm

_ASSUMED = (
    "All times are modelled, none is measured: computing as recorded, plus hops x latency + "
    "bytes / bandwidth of each collective; nothing overlaps, no link is shared.",
    "A time to the target is given where such a global minibatch was run; *: as if the method "
    "needed no more samples, up to 4 times one that was and a tenth of the training set.",
)


def command(
    results: session.Results,
    ranks: Annotated[str, Option(help="World sizes to model.")] = "8,64,512,4096",
    fabric: network_options.Names = None,
    fabrics: network_options.File = None,
    algorithm: network_options.Collectives = Algorithm.best,
    node_ranks: network_options.NodeRanks = 1,
    node_fabric: network_options.NodeFabric = "nvlink4",
    scaling: Annotated[BatchScaling | None, Option(
        help="strong: the global minibatch stays; weak: each rank's share of it.  "
             "[default: both]", show_default=False)] = None,
) -> None:
    """Model times at other world sizes and on other networks."""
    from rich.table import Table

    from bench_apts.reports import modelled_times
    from bench_apts.reports.gather import gather
    from bench_apts.reports.table import csv_bytes
    from bench_apts.study import resolve

    sizes = resolve.parse_sizes("--ranks", ranks)
    gathered = gather(results)
    networks = network_options.chosen_networks(fabric, fabrics, node_ranks, node_fabric)
    rows, notes = modelled_times.project_times(
        gathered, sizes, networks,
        list(BatchScaling) if scaling is None else [scaling], algorithm)
    console = session.table_console()
    for suite, group in itertools.groupby(rows, lambda row: row.cell.suite):
        table = Table("optimizer", "measured at", "scaling", "fabric",
                      *(f"N={n}" for n in sizes), box=None, title_justify="left",
                      title=f"{suite.name}: modelled step time / modelled time to target")
        for line in zip(*[group] * len(sizes), strict=True):
            row = line[0]
            table.add_row(row.cell.label, f"N={row.cell.ranks}", row.scaling, row.fabric,
                          *(session.plain_text(entry.text) for entry in line))
        console.print(table)
    notes = [*([gathered.copies] if gathered.copies else []), *notes]
    if any(row.middle is None for row in rows):
        notes.append("–: more ranks than the global minibatch has samples")
    for note in (*notes, *_ASSUMED):
        console.print(f"note: {note}", soft_wrap=True)
    if rows:
        path = results / "tables" / "projection.csv"
        session.write_table_file(path, csv_bytes(row.numbers() for row in rows), session.TABLES)
        print(f"table: {path}")
