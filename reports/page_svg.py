"""Matplotlib's SVG made fit to stand inside a page.

Style attributes become presentation attributes (a strict Content-Security-Policy forbids the
former), known colours get CSS classes (dark mode), and every id gets the figure's name in front.
Paths are written by their steps, a mark that stands at many places is one path, and digits below
a tenth of a point are dropped.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
import zlib
from typing import TYPE_CHECKING

from bench_apts.reports.figure_style import ADAPTED

if TYPE_CHECKING:
    from collections.abc import Mapping

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
# What is looked at, not replaced: a template for each number would take most of the time.
_LONG = re.compile(r"(?<=\.\d)\d+")
_POINTLESS = re.compile(r"(?<=\d)\.0(?!\d)")
_POINT = re.compile(r"\s*M [\d.-]+ [\d.-]+\s*")
_STRAIGHT = re.compile(r"[MLz\d\s.-]*")
_COMMANDS = re.compile(r"([MLz])([^MLz]*)")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_INHERITED = ("class", "fill", "fill-opacity", "stroke", "stroke-linejoin",
              "stroke-opacity", "stroke-width")
_UNTURNED = re.compile(r"^rotate\(-?0(\.0+)? ")

_MANY = 6
"""Marks from which on one path with the mark at its corners is shorter than each by itself."""

_THIN = "0.7"
"""Width of the grid's lines, which the page's style says once."""

_SMALL = "8px"
"""Size of most labels, which a figure says once."""

FILE_ONLY = ("file-ground", "file-title", "file-legend")
"""Ids of what a figure's file needs, while the page says it in words of its own."""

AXIS, MOVES = "axis:", "moves"
"""Ids of a horizontal axis that the page may show on another scale, followed by both scales, and
of what it then moves."""


def inline(source: str, slug: str, title: str, view: str) -> str:
    """Return ``source`` as an ``<svg>`` element without namespaces, for use inside HTML.

    Args:
        source: A document written by matplotlib with ``svg.fonttype`` ``none``; groups with an
            id of ``FILE_ONLY`` are left out.
        slug: Prefix of all ids; unique in the page, whose ``slug-caption`` describes it.
        title: What the figure is; read aloud by screen readers.
        view: The ``viewBox``: what of the document is shown.
    """
    root = _clean(source, slug)
    axis = root.get("data-axis")
    head = {"viewBox": view, "role": "img", "class": "figure",
            "aria-labelledby": f"{slug}-title", "aria-describedby": f"{slug}-caption",
            "stroke-linejoin": "round",
            "font-size": _SMALL} | ({"data-axis": axis} if axis else {})
    root.attrib.clear()
    root.attrib.update(head)
    child = ET.Element("title", {"id": f"{slug}-title"})
    child.text = title
    root.insert(0, child)
    return ET.tostring(root, encoding="unicode")


def symbol(source: str, slug: str) -> str:
    """Return ``source`` as a ``<symbol>`` of id ``slug``, drawn wherever ``<use>`` names it."""
    root = _clean(source, slug)
    root.tag = "symbol"
    head = {"id": slug, "viewBox": root.attrib["viewBox"]}
    root.attrib.clear()
    root.attrib.update(head)
    return ET.tostring(root, encoding="unicode")


def _clean(source: str, slug: str) -> ET.Element:
    root = ET.fromstring(source)
    # Short, as a clipping path is named by most elements of a figure.
    short = f"f{zlib.crc32(slug.encode()):x}"
    names = {name: f"{short}-{index}" for index, name in enumerate(_references(root))}
    for element in root.iter():
        name = element.get("id", "")
        if name.startswith(AXIS):
            root.set("data-axis", name.removeprefix(AXIS))
            for tick in element:
                if tick.get("id", "").startswith("xtick"):
                    tick.set("class", "tick")
        elif name == MOVES:
            element.set("class", MOVES)
    for parent in reversed([*root.iter()]):  # what loses all its children may go with them
        parent[:] = [child for child in parent if not _is_needless(child)]
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _restyle(element)
        _rename(element, names)
        _round(element)
        if element.tag != "text":
            element.text = None
        element.tail = None
    for element in root.iter():
        _share(element)
    _merge_marks(root)
    for element in root.iter():
        element[:] = _unwrapped(element)
    return root


def _references(root: ET.Element) -> dict[str, None]:
    """Return the ids that anything refers to, in the order of the document."""
    used: dict[str, None] = {}
    for element in root.iter():
        if _HREF in element.attrib:
            used[element.attrib[_HREF].removeprefix("#")] = None
        for value in element.attrib.values():
            if "url(" in value:
                used.update(dict.fromkeys(_REFERENCE.findall(value)))
    return used


def _round(element: ET.Element) -> None:
    """Drop digits below a tenth of a point, which is finer than the pixels of a screen."""
    for name in ("x", "y", "transform", "width", "height", "points"):
        if name in element.attrib:
            element.set(name, " ".join(_LONG.sub("", element.attrib[name]).split()))
    path = element.attrib.get("d")
    if path is not None:
        element.set("d", _relative(path) if _STRAIGHT.fullmatch(path) else _POINTLESS.sub(
            "", _LONG.sub("", " ".join(path.split()))))


def _relative(path: str) -> str:
    """Write a path of straight lines by the steps from each corner to the next, in tenths."""
    found: list[str] = []
    x = y = 0
    said = ""
    steps: tuple[int, ...]
    for command, numbers in _COMMANDS.findall(path):
        if command == "z":
            found.append("z")
            said = "z"
            continue
        places = iter([round(10 * float(number)) for number in numbers.split()])
        for to_x, to_y in zip(places, places, strict=True):
            if (to_x, to_y) == (x, y) and said not in ("M", "z", ""):
                continue
            if command == "M":
                letter, steps = "M", (to_x, to_y)
                command = "L"  # what follows a move without a letter is a line
            elif to_x == x:
                letter, steps = "v", (to_y - y,)
            elif to_y == y:
                letter, steps = "h", (to_x - x,)
            else:
                letter, steps = "l", (to_x - x, to_y - y)
            for index, step in enumerate(steps):
                number = f"{step / 10:g}"
                if abs(step) < 10:
                    number = number.replace("0.", ".", 1)
                if index == 0 and letter != said:
                    found.append(letter)
                elif step >= 0:
                    found.append(" ")
                found.append(number)
            x, y, said = to_x, to_y, letter
    return "".join(found)


def _merge_marks(root: ET.Element) -> None:
    """Draw a mark that stands at many places as one path with the mark at its corners."""
    shapes = {shape.get("id"): (defs, shape) for defs in root.iter("defs") for shape in defs}
    for parent in [*root.iter()]:
        for index, group in enumerate(parent):
            if (group.tag != "g" or len(group) < _MANY or any(
                    child.tag != "use" or child.attrib.keys() != {"x", "y", "href"}
                    for child in group) or len({child.get("href") for child in group}) > 1):
                continue
            name = group[0].get("href", "").removeprefix("#")
            defs, shape = shapes[name]
            if shape.tag == "marker" or any(use.get("href") == f"#{name}" for use in root.iter(
                    "use") if use not in list(group)):
                continue
            # A marker inherits nothing from the path that it stands on.
            path = {"clip-path": clip} if (clip := group.attrib.pop("clip-path", "")) else {}
            del shape.attrib["id"]
            shape.attrib.update({**shape.attrib, **group.attrib})
            defs.remove(shape)
            marker = ET.SubElement(defs, "marker", {
                "id": name, "markerUnits": "userSpaceOnUse", "overflow": "visible"})
            marker.append(shape)
            places = " ".join(f"{use.get('x')} {use.get('y')}" for use in group)
            parent[index] = ET.Element("path", {
                "d": _relative(f"M {places}"), "fill": "none", **path,
                **{f"marker-{where}": f"url(#{name})" for where in ("start", "mid", "end")}})


def _share(group: ET.Element) -> None:
    """Say once on a group what all of its markers, at least two, say of their colours."""
    if group.tag != "g" or len(group) < 2 or any(child.tag != "use" for child in group):
        return
    first = group[0].attrib
    common = {name: first[name] for name in _INHERITED if name in first and all(
        child.attrib.get(name) == first[name] for child in group)}
    if not common.keys() & group.attrib.keys():
        group.attrib.update(common)
        for child in group:
            for name in common:
                del child.attrib[name]


def _unwrapped(element: ET.Element) -> list[ET.Element]:
    """Return an element's children, in place of groups that say nothing those inside them."""
    found: list[ET.Element] = []
    for child in element:
        found += _unwrapped(child) if child.tag == "g" and not child.attrib else [child]
    return found


def _is_needless(element: ET.Element) -> bool:
    """Say whether the page does without an element: styles, metadata, what is for files alone."""
    return (element.tag == f"{_SVG}style" or element.tag.endswith("metadata")
            or element.attrib.get("id") in FILE_ONLY
            or (element.tag == f"{_SVG}defs" and not len(element))
            # A line of a single point, as below a mark that stands alone.
            or (element.tag == f"{_SVG}path" and bool(_POINT.fullmatch(element.get("d", "")))))


def _restyle(element: ET.Element) -> None:
    for part in element.attrib.pop("style", "").split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        # The page's own typeface is used, as the labels are text.
        if value and name != "font-family":
            element.set(name, value)
    # The page's style says what the colour of a class is.
    classes = [f"{name[0]}-{ADAPTED[element.attrib.pop(name).lower()]}"
               for name in ("fill", "stroke")
               if element.attrib.get(name, "").lower() in ADAPTED]
    if classes:
        element.set("class", " ".join(classes))
    if classes == ["s-grid"]:  # lines of the grid end where they are clipped
        for name in ("clip-path", "stroke-linecap"):
            element.attrib.pop(name, None)
        if element.attrib.get("stroke-width") == _THIN:
            element.set("class", "grid")
            for name in ("fill", "stroke-width"):
                del element.attrib[name]
    if element.attrib.get("font-size") == _SMALL:
        del element.attrib["font-size"]
    if _UNTURNED.match(element.attrib.get("transform", "")):
        del element.attrib["transform"]


def _rename(element: ET.Element, names: Mapping[str, str]) -> None:
    name = element.attrib.pop("id", None)
    if name is not None and name in names:
        element.set("id", names[name])
    if _HREF in element.attrib:
        element.set("href", f"#{names[element.attrib.pop(_HREF).removeprefix('#')]}")
    for key, value in element.attrib.items():
        if "url(#" in value:
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{names[found[1]]})", value))
