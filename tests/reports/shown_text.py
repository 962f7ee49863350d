"""What a reader sees of a page, as plain text: a line for each row, paragraph and figure."""

from __future__ import annotations

import re
from html.parser import HTMLParser

HIDDEN = ("style", "script", "head")
INLINE = ("a", "abbr", "b", "em", "strong", "span", "small", "code", "use", "path", "g",
          "symbol", "defs", "rect", "circle", "line", "polyline", "polygon", "clippath", "button",
          "title", "desc", "text", "tspan", "pattern", "meta", "link", "svg")
CELLS = ("td", "th", "dt", "dd", "text", "title", "desc", "small", "span")


class _Reader(HTMLParser):
    """Starts a line at each block, and sets cells, labels and figures' texts apart by bars."""

    def __init__(self):
        super().__init__()
        self.lines, self.now, self.hidden = [], "", 0

    def handle_starttag(self, tag, _):
        self.hidden += tag in HIDDEN
        if tag == "svg" or tag not in (*INLINE, *CELLS, "div"):
            self._end()
        elif tag in CELLS:
            self.now += " | "

    def handle_endtag(self, tag):
        self.hidden -= tag in HIDDEN
        self.now += " " * (tag == "b")
        if tag in ("tr", "p", "figure", "svg", "li", "summary") or re.fullmatch(r"h\d", tag):
            self._end()

    def handle_data(self, data):
        if not self.hidden:
            self.now += data

    def close(self):
        super().close()
        self._end()

    def _end(self):
        line = re.sub(r"\s+", " ", self.now)
        line = re.sub(r"( ?\| )+", " | ", line).strip(" |")
        if line:
            self.lines.append(line)
        self.now = ""


def lines(page):
    """Returns the visible text of a page, figures and folded tables included."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.lines
