"""HTML as an ElementTree, strictly: every element that is opened must be closed."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree as ET

VOID = ("meta", "link", "br", "img", "input", "hr")


class _Builder(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tree, self.open = ET.TreeBuilder(), []

    def handle_starttag(self, tag, attrs):
        self.tree.start(tag, {name: value or "" for name, value in attrs})
        self.open.append(tag)
        if tag in VOID:
            self.handle_endtag(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        self.tree.end(tag)

    def handle_data(self, data):
        if self.open:
            self.tree.data(data)


def parse(page):
    """Returns the ``html`` element of a page."""
    builder = _Builder()
    builder.feed(page)
    assert not builder.open, f"not closed: {builder.open}"
    return builder.tree.close()


def text(element):
    """Returns the text of an element and all below, words apart by one space."""
    return " ".join(" ".join(element.itertext()).split())
