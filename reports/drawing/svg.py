"""Makes matplotlib's SVG fit to stand inside a page: small, recolourable and unambiguous.

Style attributes become presentation attributes (a strict Content-Security-Policy forbids the
former), known colours get CSS classes (dark mode), every id gets the figure's name in front.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from .style import ADAPTED

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_LONG = re.compile(r"(\d+\.\d\d)\d+")
_PATH = re.compile(r"(\d+\.\d)\d+")  # a tenth of a point is finer than any screen
_POINTLESS = re.compile(r"(\d)\.0(?!\d)")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_UNTURNED = re.compile(r"^rotate\(-?0(\.0+)? ")


APART = ("file-ground", "file-title", "file-legend")
"""Ids of what a figure's file needs, while the page says it in words of its own."""


def inline(source: str, slug: str, title: str, description: str, view: str) -> str:
    """Returns ``source`` as an ``<svg>`` element without namespaces, for use inside HTML.

    Args:
        source: A document written by matplotlib with ``svg.fonttype`` ``none``; groups with an
            id of ``APART`` are left out.
        slug: Prefix of all ids; unique in the page.
        title: What the figure is; read aloud by screen readers.
        description: What there is to see in it.
        view: The ``viewBox``: what of the document is shown.
    """
    root = _clean(source, slug)
    head = {"viewBox": view, "role": "img", "class": "figure",
            "aria-labelledby": f"{slug}-title {slug}-desc", "stroke-linejoin": "round",
            "preserveAspectRatio": "xMidYMid meet"}
    root.attrib.clear()
    root.attrib.update(head)
    for index, (name, text) in enumerate((("title", title), ("desc", description))):
        child = ET.Element(name, {"id": f"{slug}-{name}"})
        child.text = text
        root.insert(index, child)
    return ET.tostring(root, encoding="unicode")


def symbol(source: str, slug: str) -> str:
    """Returns ``source`` as a ``<symbol>`` of id ``slug``, drawn wherever ``<use>`` names it."""
    root = _clean(source, slug)
    root.tag = "symbol"
    head = {"id": slug, "viewBox": root.attrib["viewBox"]}
    root.attrib.clear()
    root.attrib.update(head)
    return ET.tostring(root, encoding="unicode")


def _clean(source: str, slug: str) -> ET.Element:
    root = ET.fromstring(source)
    used = _references(root)
    for parent in list(root.iter()):
        for child in list(parent):
            if (child.tag == f"{_SVG}style" or child.tag.endswith("metadata")
                    or child.attrib.get("id") in APART):
                parent.remove(child)
    _drop_empty(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _restyle(element)
        _rename(element, slug, used)
        for name in ("d", "x", "y", "transform", "width", "height", "points"):
            if name in element.attrib:
                element.set(name, " ".join(_LONG.sub(r"\1", element.attrib[name]).split()))
        if "d" in element.attrib:
            element.set("d", _POINTLESS.sub(r"\1", _PATH.sub(r"\1", element.attrib["d"])))
        if element.tag != "text":
            element.text = None
        element.tail = None
    return root


def _references(root: ET.Element) -> set[str]:
    used = set()
    for element in root.iter():
        if _HREF in element.attrib:
            used.add(element.attrib[_HREF].removeprefix("#"))
        for value in element.attrib.values():
            used.update(_REFERENCE.findall(value))
    return used


def _drop_empty(root: ET.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}defs" and not len(child):
                parent.remove(child)


def _restyle(element: ET.Element) -> None:
    for part in element.attrib.pop("style", "").split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        # The page's own typeface is used, as the labels are text.
        if value and name != "font-family":
            element.set(name, value)
    classes = [f"{name[0]}-{ADAPTED[element.attrib[name].lower()]}" for name in ("fill", "stroke")
               if element.attrib.get(name, "").lower() in ADAPTED]
    if classes:
        element.set("class", " ".join(classes))
    if _UNTURNED.match(element.attrib.get("transform", "")):
        del element.attrib["transform"]


def _rename(element: ET.Element, slug: str, used: set[str]) -> None:
    name = element.attrib.pop("id", None)
    if name in used:
        element.set("id", f"{slug}-{name}")
    if _HREF in element.attrib:
        element.set("href", f"#{slug}-{element.attrib.pop(_HREF).removeprefix('#')}")
    for key, value in element.attrib.items():
        if "url(#" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{slug}-\1)", value))
