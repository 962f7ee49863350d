"""A section of one's own: how many samples a second each optimizer trains on."""

from __future__ import annotations

from bench_apts.core import units
from bench_apts.reports.cells import pace
from bench_apts.reports.section_parts import Context, Listing, Part, Section
from bench_apts.reports.table import Table, name, number

SECTION = Section("throughput", "Throughput", order=95)


def part(context: Context) -> Part | None:
    """Return what the page shows of one suite, or None if there is nothing to show."""
    rates = [(1 / pace(record), cell) for group in context.groups for cell in group.cells
             for record in cell.seeds if pace(record)]
    if not rates:
        return None
    rows = tuple((name(cell.label, suite=context.suite.name),
                  number(str(cell.ranks), ranks=cell.ranks),
                  number(units.format_count(rate), samples_per_s=rate)) for rate, cell in rates)
    table = Table("throughput", "Samples a second", "Of each final training, all ranks together.",
                  (("Optimizer", ""), ("N", "ranks"), ("Samples", "a second")), rows)
    most, cell = max(rates, key=lambda pair: pair[0])
    return SECTION.part(f"Most: {cell.label} at N = {cell.ranks}, {units.format_count(most)} "
                        "samples a second.", [Listing(table, folded=False)])
