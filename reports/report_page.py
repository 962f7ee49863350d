"""From gathered records to the page: contexts, sections, files, and the filled template.

The page's policy lets nothing but the template's own style and script run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, get_args

import jinja2
from markupsafe import Markup

from bench_apts.core import units
from bench_apts.core.currencies import headline
from bench_apts.core.errors import UserError
from bench_apts.reports import caveats, report_terms, section_parts
from bench_apts.reports.canvas import swatch
from bench_apts.reports.curve_data import curve_frame
from bench_apts.reports.data_origin import provenance_cards
from bench_apts.reports.figure_style import LOOKS, looks
from bench_apts.reports.sections import decision_boxes, find_sections, trial_detail
from bench_apts.reports.table import MOST_ROWS, csv_bytes, frame_csv, unstable_winner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bench_apts.core.spec import Suite
    from bench_apts.reports.asv_results import History
    from bench_apts.reports.canvas import Figure
    from bench_apts.reports.caveats import Caveat
    from bench_apts.reports.data_origin import ProvenanceCard
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.gather import Gathered
    from bench_apts.reports.section_parts import Part
    from bench_apts.reports.table import DecisionVerdict, Plain, Table

_UNCERTAIN: dict[DecisionVerdict, str] = {
    "not told apart": "the trials do not tell the optimizers apart",
    "cannot be told": "so few trials cannot tell the optimizers apart",
    "not judged": "the trials are of environments that do not compare"}


def add_uncertainty(part: Part, decision: Part) -> Part:
    """Add to a part's finding what the decision boxes of its chapter could not tell."""
    return replace(part, finding=f"{part.finding} {uncertainty_sentence(decision)}".strip())


def uncertainty_sentence(decision: Part) -> str:
    """Say in one sentence where the boxes name no winner; "" if they do everywhere."""
    boxes = [box for box in decision.boxes
             if box.answers and box.answers[0].numbers["runner_up"]]
    places: dict[str, list[str]] = {}
    for box in boxes:
        if box.verdict in _UNCERTAIN:
            places.setdefault(_UNCERTAIN[box.verdict], []).append(box.heading)
    if not places:
        return ""
    said = "; ".join(f"{units.listing(where)}: {what}" for what, where in places.items())
    return f"{units.capitalized(said)}, so any ranking holds for this sample only."


def render_page(*, marks: Mapping[str, str], look: Mapping[str, Look],
                template: str = "report.html.j2", **context: Any) -> str:
    """Return the HTML of a report.

    Args:
        marks: Id of each optimizer's legend mark, by label.
        look: Each optimizer's look.
        template: Its file in ``templates/``.
        **context: What the template names.
    """
    folder = resources.files("bench_apts.reports") / "templates"
    style = (folder / "report.css").read_text(encoding="utf-8") + _palette()
    script = "".join((folder / name).read_text(encoding="utf-8")
                     for name in ("sort.js", "page.js"))
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        finalize=_joined)
    environment.globals.update(units=units, svg=Markup, most_rows=MOST_ROWS,
                               terms=report_terms.TITLES, defined=_defined)
    environment.tests.update({
        kind.__name__.lower(): lambda block, kind=kind: isinstance(block, kind)
        for kind in get_args(section_parts.Block)})
    policy = (f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
              "img-src data:; base-uri 'none'; form-action 'none'")
    symbols = "".join(swatch(look[label], mark, label) for label, mark in marks.items())
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), policy=Markup(policy),
        symbols=Markup(symbols), marks=marks, **context) + "\n"


def _joined(value: Any) -> Any:
    """Keep a percent sign on the line of its number; what is markup already stays as it is."""
    return (re.sub(r"(?<=\d) %", f"{units.THIN}%", value)
            if isinstance(value, str) and not isinstance(value, Markup) else value)


def _defined(text: str) -> Markup:
    return report_terms.define_terms(_joined(text))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _palette() -> str:
    """Return the CSS that recolours the optimizers' colours in dark mode."""
    light = "".join(f"--{look.slot}:{look.color};" for look in LOOKS)
    dark = "".join(f"--{look.slot}:{look.dark};" for look in LOOKS)
    names = ["ink", "muted", "grid", *(look.slot for look in LOOKS)]
    rules = "".join(f".f-{n}{{fill:var(--{n})}}.s-{n}{{stroke:var(--{n})}}" for n in names)
    rules += ".grid{fill:none;stroke:var(--grid);stroke-width:.7}"
    return (f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark)"
            f"{{:root{{{dark}}}}}\n{rules}\n")


@dataclass(frozen=True)
class Chapter:
    """One suite.

    Attributes:
        suite: The training problem.
        anchor: Prefix of the ids of its parts.
        decision: What to take, which stands above all chapters.
        parts: All others.
    """

    suite: Suite
    anchor: str
    decision: Part
    parts: tuple[Part, ...]

    @property
    def ordered(self) -> list[Part]:
        """The parts as they stand on the page: the evidence first."""
        return sorted(self.parts, key=lambda part: not part.evidence)


def _caps(chapters: Iterable[Chapter]) -> list[str]:
    """Return the caps of a trial, each with the suites that have it where they differ."""
    suites: dict[str, list[str]] = {}
    for chapter in chapters:
        suites.setdefault(units.format_budget(chapter.suite.budget), []).append(
            chapter.suite.name)
    return [cap if len(suites) == 1 else f"{cap} ({', '.join(names)})"
            for cap, names in suites.items()]


@dataclass(frozen=True)
class ReportOutput:
    """Everything that a report consists of.

    Attributes:
        page: Writes the page as HTML.
        files: Writes tables and figures, by path relative to the page's folder.
        gathered: The study.
        chapters: What the page shows of each suite.
        overall: What it shows of no suite in particular.
        tables: Rows of plain numbers by the name of their CSV file.
        caveats: What a reader must know.
        cards: Where the numbers come from.
        figures: All figures of the page.
        warnings: What has to be read before any number.
    """

    page: Callable[[], str]
    files: dict[str, Callable[[], bytes]]
    gathered: Gathered
    chapters: tuple[Chapter, ...]
    overall: tuple[Part, ...]
    tables: dict[str, list[dict[str, Plain]]]
    caveats: list[Caveat]
    cards: list[ProvenanceCard]
    figures: list[Figure]
    warnings: list[str]


def compose_report(gathered: Gathered, found: History | None = None,
                   draw: Callable[[Iterable[Figure]], None] = lambda _: None) -> ReportOutput:
    """Fill all tables; figures are drawn, and page and files written, on demand.

    Args:
        gathered: The study.
        found: Numbers over commits to show with it, if any.
        draw: Gets figures as soon as they are known, to draw them at the same time.
    """
    labels = [entry.label for entry in gathered.file.study.entries]
    look = looks(labels)
    contexts = _contexts(gathered, look)
    chapters, overall, failures = _build(
        section_parts.StudyContext(tuple(contexts), found), draw)
    parts = [*(part for chapter in chapters for part in (chapter.decision, *chapter.parts)),
             *overall]
    drawn = [figure for part in parts for figure in part.figures]
    sources = [table for table in (trial_detail.trials_table(gathered.trials),
                                   trial_detail.figures_table(drawn)) if table.rows]
    notes = [*caveats.all_caveats(gathered),
             *(caveats.Caveat("A section that failed", f"Left out: {line}.") for line in failures)]
    origin = provenance_cards(gathered)
    warnings = [line for group in gathered.groups
                if (line := unstable_winner(group, headline(gathered.device)))]
    page = partial(
        render_page, gathered=gathered, study=gathered.file.study, chapters=chapters,
        labels=labels, marks={label: f"m{index}" for index, label in enumerate(labels)},
        look=look, caveats=notes, gravest=caveats.gravest(notes), cards=origin,
        warnings=warnings, caps=_caps(chapters), sources=sources, overall=overall,
        statuses=trial_detail.status_counts(gathered.trials), device=gathered.device)
    tables = _rows([*(table for part in parts for table in part.tables), *sources], parts)
    files = {f"tables/{name}.csv": partial(csv_bytes, rows) for name, rows in tables.items()}
    files["tables/curves.csv"] = partial(frame_csv, contexts[0].curves)
    return ReportOutput(page, files | figure_files(drawn), gathered, chapters, overall, tables,
                        notes, origin, drawn, warnings)


def _build(study: section_parts.StudyContext, draw: Callable[[Iterable[Figure]], None]
           ) -> tuple[tuple[Chapter, ...], tuple[Part, ...], list[str]]:
    """Build all sections: the chapters, the parts about the whole study, and what failed."""
    found, failures = find_sections()
    decisions = [decision_boxes.part(context) for context in study.suites]
    draw(figure for part in decisions for figure in part.figures)
    built: dict[str, list[Part | None]] = {}
    # The evidence first: little work with many figures, which are drawn while the rest is built.
    for module in sorted(found, key=lambda each: not each.section.evidence):
        section = module.section
        try:
            built[section.anchor] = [module.build(context) for context in (
                [study] if section.study else study.suites)]
        except UserError as error:
            if not module.source:  # of bench-apts: a file of the study is corrupt
                raise
            failures.append(str(error))
        else:
            draw(figure for part in built[section.anchor] if part for figure in part.figures)
    order = [each.section for each in found if each.section.anchor in built]
    chapters = [Chapter(context.suite, f"s{index}", decision, tuple(
        add_uncertainty(part, decision) if section.compares else part for section in order
        if not section.study and (part := built[section.anchor][index])))
        for index, (context, decision) in enumerate(zip(study.suites, decisions, strict=True))]
    overall = [part for section in order if section.study and (part := built[section.anchor][0])]
    return tuple(chapters), tuple(overall), failures


def _contexts(gathered: Gathered, look: Mapping[str, Look]) -> list[section_parts.Context]:
    study = gathered.file.study
    crowded = {n: caveats.crowded(gathered, n) for n in study.ranks}
    data = curve_frame(gathered.groups)
    found = []
    for index, suite in enumerate(study.suites):
        groups = tuple(group for group in gathered.groups if group.suite == suite)
        twins = [other for other in study.suites if other.name == suite.name]
        prefix = suite.name if len(twins) == 1 else f"{suite.name}-s{index}"
        found.append(section_parts.Context(
            gathered, suite, prefix, groups, look, crowded, data))
    return found


def figure_files(figures: Iterable[Figure]) -> dict[str, Callable[[], bytes]]:
    """Return what writes some figures as SVG and PNG, by path."""
    files: dict[str, Callable[[], bytes]] = {}
    for figure in figures:
        files[f"figures/{figure.slug}.svg"] = figure.file
        files[f"figures/{figure.slug}.png"] = figure.png
    return files


def _rows(tables: Iterable[Table], parts: Iterable[Part]) -> dict[str, list[dict[str, Plain]]]:
    """Return the rows of all CSV files by name; tables of several suites and N share one."""
    rows: dict[str, list[dict[str, Plain]]] = {}
    # Figures may share a table, whose rows count once.
    for table in {id(table): table for table in tables}.values():
        rows.setdefault(table.name, []).extend(table.records())
    for box in (box for part in parts for box in part.boxes):
        rows.setdefault("decision", []).extend(dict(answer.numbers) for answer in box.answers)
    return rows
