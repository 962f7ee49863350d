"""The page in a real browser: Debian's chromium, as it comes."""

import json
import os
import re
from pathlib import Path

import browser
import node
import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.reports.study_gallery import build_gallery

pytestmark = browser.NEEDED

STATES = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 390, "height": 844},
    "phone-dark": {"width": 390, "height": 844, "dark": True},
    "print": {"width": 794, "height": 1123, "media": "print"},
    "without-scripts": {"scripts": False},
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report, a comparison of it with itself, and a gallery of it, by name."""
    folder = fixture.populate(tmp_path_factory.mktemp("results") / "study")
    names = ("<b>before</b>", "after")
    return {"report": reports.build(folder, ("html",)).as_uri(),
            "compared": reports.compare(folder, folder, ("html",), names=names).as_uri(),
            "gallery": build_gallery([folder], tmp_path_factory.mktemp("site")).as_uri()}


@pytest.fixture(scope="module")
def chromium():
    if browser.path() is None:
        pytest.fail("these tests need chromium: apt-get install chromium")
    started = browser.Browser()
    yield started
    started.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Where screenshots go: to keep them, name a folder by BENCH_APTS_SCREENSHOTS."""
    folder = os.environ.get("BENCH_APTS_SCREENSHOTS")
    target = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    target.mkdir(parents=True, exist_ok=True)
    return target


WIDEST = """[...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth && !e.closest('.scroll'))
    .slice(0, 8).map(e => e.outerHTML.slice(0, 120)).join(' | ')"""
"""JavaScript that names what sticks out, for the message of a failure."""


def load(chromium, pages, name, state):
    tab = chromium.page(pages[name], **STATES[state])
    if state == "print":
        tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    return tab


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["report", "compared", "gallery"])
def test_it_loads_without_complaint_request_or_overflow(chromium, pages, pictures, name, state):
    tab = load(chromium, pages, name, state)
    tab.screenshot(pictures / f"{name}-{state}.png")
    assert tab.complaints() == []
    assert tab.requests() == [pages[name]]
    # An element may scroll in itself; the page as a whole must not do so sideways.
    wide, room = tab.run("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room, tab.run(WIDEST)
    assert tab.run("document.querySelectorAll('table').length") > 0
    assert (pictures / f"{name}-{state}.png").stat().st_size > 10_000


MISPLACED = """(() => {
    const found = [];
    for (const svg of document.querySelectorAll('svg.figure')) {
        const box = svg.getBoundingClientRect();
        const title = svg.querySelector('title').textContent;
        const texts = [...svg.querySelectorAll('text')].map(
            text => [text.textContent, text.getBoundingClientRect()]);
        texts.forEach(([said, at], index) => {
            if (at.left < box.left - 1 || at.right > box.right + 1
                || at.top < box.top - 1 || at.bottom > box.bottom + 1)
                found.push(`${title}: ${said} is cut off`);
            for (const [other, there] of texts.slice(0, index)) {
                const wide = Math.min(at.right, there.right) - Math.max(at.left, there.left);
                const high = Math.min(at.bottom, there.bottom) - Math.max(at.top, there.top);
                if (wide > 1 && high > 0.3 * Math.min(at.height, there.height))
                    found.push(`${title}: ${said} lies on ${other}`);
            }
        });
    }
    return found;
})()"""


@pytest.mark.parametrize("name", ["report", "compared"])
def test_no_text_of_a_figure_is_cut_off_or_lies_on_another(chromium, pages, name):
    tab = chromium.page(pages[name])
    assert tab.run("document.querySelectorAll('svg.figure text').length") > 20
    assert tab.run(MISPLACED) == []


def test_the_policy_is_enforced(chromium, pages):
    tab = chromium.page(pages["report"])
    tab.run("""(() => {
        const made = document.createElement('script');
        made.textContent = 'window.broken = true';
        document.body.append(made);
        new Image().src = 'https://example.org/x.png';
    })()""")
    # The browser says so when it finds the time.
    chromium.until(lambda: len(
        [c for c in tab.complaints() if "Content Security Policy" in c]) == 2)
    assert tab.run("window.broken === undefined")


def test_dark_mode_changes_the_colours_of_page_and_figures(chromium, pages):
    code = """[getComputedStyle(document.body).backgroundColor,
               getComputedStyle(document.querySelector('svg.figure text')).fill]"""
    light, dark = (chromium.page(pages["report"], dark=dark).run(code) for dark in (False, True))
    assert light[0] != dark[0]
    assert light[1] != dark[1]


COLUMN = """(() => {
    const head = document.activeElement.closest('th');
    if (!head) return {keys: []};
    const table = head.closest('table');
    return {name: table.getAttribute('aria-describedby'),
            sort: head.getAttribute('aria-sort'),
            keys: [...table.tBodies[0].rows].map(row => {
                const cell = row.cells[head.cellIndex];
                return cell.dataset.v ?? cell.firstChild?.textContent ?? '';
            })};
})()"""


def test_a_column_is_sorted_by_keyboard(chromium, pages):
    tab = chromium.page(pages["report"])
    for _ in range(200):
        tab.press("Tab")
        # The first column of numbers that differ from row to row.
        known = {key for key in tab.run(COLUMN)["keys"] if key}
        if len(known) > 2 and all(re.fullmatch(r"[\d.e+-]+", key) for key in known):
            break
    else:
        pytest.fail("no column of numbers can be reached by Tab")
    orders = []
    for _ in range(2):
        tab.press("Enter")
        found = tab.run(COLUMN)
        keys = found["keys"]
        numbers = [float(key) for key in keys if key]
        # Misses come last, whichever way the column is sorted.
        assert all(keys[:len(numbers)])
        assert found["sort"] in ("ascending", "descending")
        assert numbers == sorted(numbers, reverse=found["sort"] == "descending")
        orders.append(found["sort"])
    assert set(orders) == {"ascending", "descending"}


SHOWN = "[...document.querySelectorAll('#s0-curves .pair')[0].children].map(f => f.dataset.choice)"


def test_links_open_what_is_folded_and_curves_change_their_axis(chromium, pages):
    tab = chromium.page(pages["report"])
    assert tab.run("document.querySelector('#s0-tuning').closest('details').open") is False
    tab.run("document.querySelector('.answers a[href=\"#s0-tuning\"]').click()")
    assert tab.run("""new Promise(done => setTimeout(() => done(
        document.querySelector('#s0-tuning').closest('details').open), 300))""")
    assert set(tab.run(SHOWN)) == {"samples"}
    tab.run("document.querySelectorAll('#s0-curves input[type=radio]')[1].click()")
    assert set(tab.run(SHOWN)) == {"training time"}
    # A point at 10 k samples is at the tick of 10 k on either scale.
    tab.run("document.querySelectorAll('#s0-curves input[type=radio]')[0].click()")
    places = """(() => {
        const svg = document.querySelector('#s0-curves svg.figure');
        const ring = [...svg.querySelectorAll('.moves use')].find(
            use => Number(use.getAttribute('x')));
        const ticks = [...svg.querySelectorAll('.tick text')].map(
            text => [text.textContent, Number(text.getAttribute('x'))]);
        return [Number(ring.getAttribute('x')), ticks];
    })()"""
    first, linear = tab.run(places)
    tab.run("document.querySelector('#s0-curves input[type=checkbox]').click()")
    then, log = tab.run(places)
    assert linear != log
    tab.run("document.querySelector('#s0-curves input[type=checkbox]').click()")
    again, back = tab.run(places)
    assert then != pytest.approx(first, abs=1)
    assert again == pytest.approx(first, abs=0.5)
    assert [label for label, _ in back] == [label for label, _ in linear]
    assert tab.complaints() == []


def test_the_legend_highlights_one_optimizer_by_keyboard(chromium, pages):
    tab = chromium.page(pages["report"])
    dimmed = ("[document.querySelectorAll('svg.figure .dim').length, "
              "document.querySelectorAll('tr.dim').length]")
    assert tab.run(dimmed) == [0, 0]
    tab.run("document.querySelector('nav .legend button').focus()")
    tab.press("Enter")
    shapes, rows = tab.run(dimmed)
    assert shapes > 20
    assert rows > 5
    assert tab.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    tab.press("Enter")
    assert tab.run(dimmed) == [0, 0]


def test_without_scripts_all_is_there_folded(chromium, pages):
    tab = chromium.page(pages["report"], scripts=False)
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.run("document.querySelectorAll('input, button').length") == 0
    assert tab.run("document.querySelectorAll('.others figure').length") > 2


def test_it_prints(chromium, pages):
    data = chromium.page(pages["report"]).call("Page.printToPDF")["data"]
    assert len(data) > 50_000


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, which npm fetches; `make browser` fails where others skip."""
    give_up = pytest.fail if browser.REQUIRED else pytest.skip
    fetched = node.modules(tmp_path_factory.mktemp("npm"), give_up)
    return (fetched / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("state", ["light", "dark", "phone"])
@pytest.mark.parametrize("name", ["report", "compared", "gallery"])
def test_axe_finds_no_serious_violation(chromium, pages, axe, name, state):
    tab = load(chromium, pages, name, state)
    # What is folded is checked too.
    tab.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    tab.run(f"{axe}\n;undefined")
    found = tab.run("""axe.run(document, {resultTypes: ['violations', 'passes']}).then(
        result => ({passes: result.passes.map(p => p.id),
                    violations: result.violations.map(v => ({
            id: v.id, impact: v.impact, help: v.help, count: v.nodes.length,
            nodes: v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + ' :: '
                                                + n.failureSummary.slice(0, 300))}))}))""")
    assert "color-contrast" in found["passes"] + [v["id"] for v in found["violations"]]
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, json.dumps(serious, indent=1)
