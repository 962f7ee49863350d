"""The sections of the page, one module each: those of this folder, and of installed packages.

A module is a section if it defines ``SECTION`` (its anchor, title and place) and a function
``part``, which makes what the page shows. Packages offer such modules as entry points of the
group ``bench_apts.sections`` (docs/reports.md). What an installed one does wrong becomes a line
for the reader of the page, never a traceback.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.errors import UserError
from bench_apts.plugins import entry_points
from bench_apts.plugins.entry_points import SECTIONS
from bench_apts.plugins.user_code import failure
from bench_apts.reports.section_parts import Part, Section

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_apts.reports.section_parts import Context, StudyContext


class SectionModule(NamedTuple):
    """A section, its function ``part``, and whose it is: "" for those that are built in."""

    section: Section
    part: Callable[[Any], Part | None]
    source: str

    def build(self, context: Context | StudyContext) -> Part | None:
        """Build the section, or return None where it has nothing to show.

        Raises:
            UserError: The section of an installed package failed.
        """
        if not self.source:
            return self.part(context)
        try:
            found: object = self.part(context)
            if isinstance(found, Part):
                for figure in found.figures:
                    _ = figure.rendered  # at once, while it is known whose it is
        except Exception as error:
            raise UserError(f"{self.source}: {type(error).__name__}: {error}") from error
        if found is not None and not isinstance(found, Part):
            raise UserError(f"{self.source}: part() returned {type(found).__name__}, not a Part")
        return found


def find_sections() -> tuple[list[SectionModule], list[str]]:
    """Find all sections, in the order of the page, and say which installed ones cannot be used."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "SECTION"):
            found.append(SectionModule(module.SECTION, module.part, ""))
    failures = []
    for name in sorted(entry_points.entries(SECTIONS)):
        try:
            found.append(_installed(name, {each.section.anchor for each in found}))
        except UserError as error:
            failures.append(str(error))
    return sorted(found, key=lambda each: each.section.order), failures


def _installed(name: str, taken: set[str]) -> SectionModule:
    entry = entry_points.only(SECTIONS, name)
    source = f"section '{name}' ({entry.value})"
    try:
        module = entry.load()
    except Exception as error:
        raise UserError(failure(source, error)) from error
    section, part = getattr(module, "SECTION", None), getattr(module, "part", None)
    if not isinstance(section, Section) or not callable(part):
        raise UserError(f"{source} defines no SECTION or no function part(context); see "
                        "docs/reports.md")
    if section.anchor in taken:
        raise UserError(f"{source}: the anchor '{section.anchor}' is taken; choose another")
    return SectionModule(section, part, source)
