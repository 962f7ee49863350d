"""Each figure of both pages: named, described, and with its numbers in a table beside it."""

import itertools
import re

import html_tree
import pandas as pd
import pytest


@pytest.fixture(scope="module", params=["report", "compared"])
def made(request):
    """Folder and tree of a page."""
    folder = request.getfixturevalue({"report": "written", "compared": "compared"}[request.param])
    content = (folder / f"{request.param}.html").read_text(encoding="utf-8")
    return folder, html_tree.parse(content)


def figures(tree):
    """Yields each figure with the folded table of its numbers, its own or that of its row."""
    parents = {child: parent for parent in tree.iter() for child in parent}
    for figure in tree.iter("figure"):
        data = figure.find("details")
        if data is None:
            block = parents[figure]
            while block.get("class") != "choices":
                block = parents[block]
            siblings = list(parents[block])
            after = siblings[siblings.index(block) + 1:]
            shared = [*itertools.takewhile(lambda each: each.get("class") == "data", after)]
            # Of several tables that of the figure's N; other tables follow.
            place = re.search(r"N = \d+", html_tree.text(figure.find("svg/title")))
            data = next((each for each in shared if place and f"{place[0]} " in html_tree.text(
                each.find("summary"))), shared[0])
        yield figure, data


def slots(element):
    """Which optimizers' colours are used: ``c0`` and so on."""
    return {name for part in element.iter() for name in re.findall(
        r"\b[fs]-(c\d+)\b", part.get("class", ""))}


def test_every_figure_is_an_image_with_a_title_and_a_description(made):
    _, tree = made
    drawn = [svg for svg in tree.iter("svg") if svg.get("aria-hidden") != "true"]
    assert len(drawn) == len([*tree.iter("figure")]) > 3
    by_id = {e.get("id"): e for e in tree.iter() if e.get("id")}
    for svg in drawn:
        assert svg.get("role") == "img"
        title, caption = (by_id[svg.get(f"aria-{how}")] for how in ("labelledby", "describedby"))
        assert (title.tag, caption.tag) == ("title", "figcaption")
        assert title in list(svg)
        assert html_tree.text(title)
        assert html_tree.text(caption)
        assert len([*svg.iter("text")]) > 2


def test_titles_tell_figures_apart(made):
    _, tree = made
    titles = [html_tree.text(title) for title in tree.iter("title")]
    assert len(titles) == len(set(titles))


def test_ids_are_unique_over_the_whole_page_and_all_references_resolve(made):
    _, tree = made
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for element in tree.iter():
        for key in ("aria-labelledby", "aria-describedby"):
            assert set(element.get(key, "").split()) <= set(ids)
        for value in element.attrib.values():
            assert set(re.findall(r"url\(#([^)]+)\)", value)) <= set(ids)
        if element.get("href", "").startswith("#"):
            assert element.get("href")[1:] in ids


def test_every_figure_has_a_table_of_what_it_draws(made):
    folder, tree = made
    of_mark = {symbol.get("id"): slots(symbol) for symbol in tree.iter("symbol")}
    for figure, data in figures(tree):
        name = html_tree.text(figure.find("figcaption"))
        assert data.tag == "details", name
        assert html_tree.text(data.find("summary")).startswith("Data"), name
        rows = [*data.find(".//tbody")]
        assert rows, name
        # Whoever is drawn in a colour of its own has a row; those of heat maps mean shares.
        listed = set().union(*(of_mark[use.get("href")[1:]] for use in data.iter("use")), set())
        if listed and "-success-" not in name:
            assert slots(figure.find("svg")) <= listed, name
        file = re.findall(r"tables/([\w-]+)\.csv", html_tree.text(data))[-1]
        assert len(rows) <= len(pd.read_csv(folder / "tables" / f"{file}.csv")), name


def test_costs_written_into_a_figure_are_those_of_its_table(written):
    tree, found = html_tree.parse((written / "report.html").read_text(encoding="utf-8")), 0
    for figure, data in figures(tree):
        shown = html_tree.text(data.find(".//tbody"))
        for label in map(html_tree.text, figure.find("svg").iter("text")):
            if re.fullmatch(r"(more than )?[\d.,]+( k)? samples(, missed|, tuning only)?", label):
                found += 1
                assert label.partition(", ")[0] in shown, label
    # Expected cost, in one figure, and bill of four optimizers at three N.
    assert found == 24


def test_a_comparison_draws_the_ratios_of_its_file(compared):
    tree = html_tree.parse((compared / "compared.html").read_text(encoding="utf-8"))
    rows = pd.read_csv(compared / "tables/compared.csv")
    assert rows["suite"].unique().tolist() == ["digits"]
    for figure, data in figures(tree):
        title = html_tree.text(figure.find("svg/title"))
        ranks, measure = re.fullmatch(r"digits, N = (\d+): (.+), B over A", title).groups()
        mine = rows[(rows["ranks"] == int(ranks)) & (rows["measure"] == measure)]
        body = [*data.find(".//tbody")]
        assert [html_tree.text(row.find("th")) for row in body] == mine["optimizer_b"].tolist()
        labels = [html_tree.text(label) for label in figure.find("svg").iter("text")]
        for row, effect in zip(body, mine["effect"], strict=True):
            cell = [*row][3]
            if pd.isna(effect):
                assert cell.get("data-v") == ""
            else:
                assert float(cell.get("data-v", cell.text)) == pytest.approx(effect, rel=1e-4)
                assert cell.text.strip() in labels
