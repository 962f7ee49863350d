"""The layout of the product: names that mean one thing, and the documents that describe it."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("bench_apts", "optimizers", "suites", "reports")
# asv names a benchmark by its module, and results of earlier commits are kept under that name.
MODULES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py")
                 if not path.is_relative_to(ROOT / "suites" / "regressions"))


def shared(pairs):
    places = defaultdict(set)
    for name, path in pairs:
        places[name].add(str(path.relative_to(ROOT)))
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_two_modules_share_a_name():
    # The public names `bench_apts.contract` and `bench_apts.tasks` are the packages' own.
    assert len(MODULES) > 100
    assert not shared((path.stem, path) for path in MODULES if path.stem != "__init__")


def test_no_two_classes_share_a_name():
    found = [(node.name, path) for path in MODULES
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.ClassDef)]
    assert len(found) > 100
    assert not shared(found)


@pytest.mark.parametrize("top", [*TOPS, "tests", "docs"])
def test_each_top_level_folder_says_what_it_holds_in_at_most_15_lines(top):
    text = (ROOT / top / "README.md").read_text(encoding="utf-8")
    assert 3 <= len(text.splitlines()) <= 15
    # What it names in code font as a Python file is there.
    for word in text.split("`"):
        if word.endswith(".py") and "*" not in word:
            assert list((ROOT / top).glob(word)), word


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md", "docs/glossary.md"])
def test_pages_for_maintainers_name_files_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    words = text.replace("(", "`").replace(")", "`").split("`")
    named = [word for word in words if word.endswith((".py", ".toml", ".md", ".gz"))
             and "/" in word and " " not in word and "NAME" not in word]
    assert named
    for word in named:
        base = (ROOT / page).parent if word.startswith("..") else ROOT
        assert any((root / word).exists() for root in (base, ROOT / "bench_apts")), word
