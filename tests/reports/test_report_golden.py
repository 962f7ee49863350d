"""Every number of both pages and of their documents, against files that are looked through.

golden/README.md says how the files are renewed.
"""

import difflib
import json
import os
import re
from pathlib import Path

import pytest
import shown_text

GOLDEN = Path(__file__).parent / "golden"
DIGITS = 7
"""Significant digits that are compared; the last ones of a float differ between processors."""

NOTHING = 1e-12
"""What is nearer to 0 is the rounding of a difference that is 0."""

WRITE = "BENCH_APTS_GOLDEN"


@pytest.fixture(scope="module")
def made(written, compared):
    """The text of every golden file by name, as the present code writes it."""
    return {name: text for stem, out in (("report", written), ("compared", compared))
            for name, text in (
                (f"{stem}.json", document((out / f"{stem}.json").read_text(encoding="utf-8"))),
                (f"{stem}.txt", page((out / f"{stem}.html").read_text(encoding="utf-8"))))}


def document(text):
    """One line for each row and sentence, so that a difference shows where it is."""
    found = rounded(json.loads(text))
    del found["bench_apts"]
    tables = found.pop("tables")
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in flat(found)]
    for name, rows in sorted(tables.items()):
        lines += [f"tables.{name}[{index}]: {json.dumps(row, ensure_ascii=False)}"
                  for index, row in enumerate(rows)]
    return "\n".join(map(unhashed, lines)) + "\n"


def flat(value, name=""):
    """Names the leaves of nested lists and objects."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in pairs:
            yield from flat(entry, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def rounded(value):
    if isinstance(value, float):
        return 0.0 if abs(value) < NOTHING else float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list) else value


def page(text):
    return "\n".join(unhashed(line) for line in shown_text.lines(text)) + "\n"


def unhashed(line):
    """Leaves out the fingerprints of the records, whose floats differ in their last digits."""
    line = re.sub(r'("file_sha256": )"[0-9a-f]{64}"', r'\1"…"', line)
    return re.sub(r"(trials/\w+\.jsonl \| )[0-9a-f]{10}", r"\1…", line)


@pytest.mark.parametrize("name", ["report.json", "report.txt", "compared.json", "compared.txt"])
def test_all_numbers_and_sentences_are_those_of_the_golden_file(made, name):
    path = GOLDEN / f"{name}.golden"
    if os.environ.get(WRITE) == "write":
        path.write_text(made[name], encoding="utf-8")
        pytest.skip(f"{path.name} was written, and is to be looked through with git diff")
    expected = path.read_text(encoding="utf-8")
    changed = list(difflib.unified_diff(
        expected.splitlines(), made[name].splitlines(), "golden", "now", lineterm="", n=0))
    assert not changed, (f"{len(changed)} lines of {path.name} differ; see golden/README.md\n"
                         + "\n".join(line[:400] for line in changed[:40]))
