"""Damage of many kinds to text and to structured values, drawn from one source of choices.

``Draw`` is all that a mutation needs, so that hypothesis and a coverage-guided fuzzer both drive
the same ones.
"""

import copy
import datetime as dt
import json
import math
from typing import Protocol


class Draw(Protocol):
    """Where choices come from."""

    def randrange(self, number: int) -> int:
        """Returns a whole number from 0 to ``number - 1``."""


STRANGE = (
    0, 1, -1, 2, 3, 7, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -2**63, 2**64, 2**70, 10**30, 10**400,
    True, False, 0.0, -0.0, 1e-320, 0.5, 1.0, 1e15, 1e300, 1.7e308, math.inf, -math.inf, math.nan,
    "", " ", "a", "1", "nan", "\0", "\x1b[2J", "\u202e", "é" * 70, "x" * 100_000,
    "../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>", "{{ 7 * 7 }}", "$(id)",
    "planted.py",
    "__import__('os').system('id')", "2026-01-02T03:04:05+00:00", "accuracy", "loss", "max", "min",
    "digits", "mnist", "mlp", "resnet", "cnn", "sgd", "hit", "miss", "train", "tune", "report",
    [], [[]], [0], [-1], [10**9], [1] * 1_000, ["a"], {}, {"": 1}, {"a": {"b": []}}, None,
    dt.date(2026, 1, 2), dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
)
"""Values that no honest file has where they are put."""


def places(value, path=()):
    """Yields the path of every item inside a value of dictionaries and lists."""
    items = (value.items() if isinstance(value, dict)
             else enumerate(value) if isinstance(value, list) else ())
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(value, draw: Draw):
    """Returns a copy with one item replaced, removed, renamed, moved or buried."""
    value = copy.deepcopy(value)
    found = list(places(value))
    if not found:
        return strange(draw)
    path = found[draw.randrange(len(found))]
    holder = at(value, path[:-1])
    match draw.randrange(6):
        case 0 | 1:
            holder[path[-1]] = strange(draw)
        case 2:
            del holder[path[-1]]
        case 3 if isinstance(holder, dict):
            holder[str(strange(draw))] = holder.pop(path[-1])
        case 4:
            holder[path[-1]] = copy.deepcopy(at(value, found[draw.randrange(len(found))]))
        case _:
            for _ in range(draw.randrange(80)):
                holder[path[-1]] = {"a": holder[path[-1]]} if draw.randrange(2) else [
                    holder[path[-1]]]
    return value


def at(value, path):
    """Returns the item at a path."""
    for key in path:
        value = value[key]
    return value


def strange(draw: Draw):
    """Draws a value that does not belong."""
    return copy.deepcopy(STRANGE[draw.randrange(len(STRANGE))])


def toml(value, top=True):
    """Writes a dictionary as TOML, in inline tables below the first level."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(str(k))} = {toml(v, False)}" for k, v in value.items()
                 if v is not None]
        return "\n".join(pairs) if top else "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item, False) for item in value if item is not None) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.date):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, str) else repr(value)


def json_line(value) -> bytes:
    """Writes a value as one line of JSON, what JSON does not know as Python spells it."""
    return json.dumps(value, default=str, ensure_ascii=False).encode(errors="replace")


def damaged(content: bytes, draw: Draw) -> bytes:
    """Returns bytes with bits flipped, lines swapped, doubled or lost, or pieces put in."""
    lines = content.split(b"\n")
    here, there = draw.randrange(len(lines)), draw.randrange(len(lines))
    offset = draw.randrange(len(content) + 1)
    match draw.randrange(8):
        case 0:
            lines[here], lines[there] = lines[there], lines[here]
        case 1:
            lines.insert(there, lines[here])
        case 2:
            del lines[here]
        case 3:
            return content[:offset]
        case 4:
            piece = PIECES[draw.randrange(len(PIECES))]
            return content[:offset] + piece + content[offset:]
        case 5:
            end = draw.randrange(len(content) + 1)
            return content[:min(offset, end)] + content[max(offset, end):]
        case _:
            flipped = bytearray(content)
            for _ in range(1 + draw.randrange(3)):
                if flipped:
                    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
            return bytes(flipped)
    return b"\n".join(lines)


PIECES = (
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"\n\n", b"NaN", b"1e400", b"-", b"9" * 5_000,
    b"[" * 100_000, b'{"a":' * 100_000, b"\\ud800", b'"', b"}", b"]", b"=", b"'''", b"#",
    b"\xe2\x80\xae", b"\x1b[2J",
)
"""What is put into the middle of a file."""
