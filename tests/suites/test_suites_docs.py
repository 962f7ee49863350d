"""The documents name what the code has, so that neither changes alone."""

import inspect
import re
from pathlib import Path

import msgspec
import pytest

from bench_apts.core import environment, records, spec, store
from bench_apts.plugins import registry
from bench_apts.suites import readers
from bench_apts.suites.known_data import KNOWN

DOCS = Path(__file__).parents[2] / "docs"
TABLES = [records.Header, records.Start, records.Eval, records.End, records.Traffic,
          records.DistinctCall, spec.Trial, spec.Partition, spec.Data, spec.Model,
          spec.Study, spec.Entry, spec.Suite, spec.Target, spec.Provenance, store.StudyFile]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_formats_name_every_field(table):
    text = (DOCS / "formats.md").read_text(encoding="utf-8")
    for field in msgspec.structs.fields(table):
        assert f"`{field.name}" in text or f".{field.name}`" in text, field.name


def test_formats_name_every_status_and_card_entry():
    text = (DOCS / "formats.md").read_text(encoding="utf-8")
    for word in [*records.Status.__args__, *environment.environment_card()]:
        assert f"`{word}`" in text


def test_data_names_every_data_set():
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in KNOWN)


def test_data_names_every_reader_and_its_options():
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    for name in set(readers.__all__) - {"Splits", "checked"}:
        arguments = list(inspect.signature(getattr(readers, name)).parameters)
        assert arguments.pop() == "data_dir"
        assert f"`{name}({', '.join(arguments)})`" in text
        assert f"readers.{name}(" in text


def test_suites_and_the_readme_name_every_built_in_suite():
    docs = (DOCS / "suites.md").read_text(encoding="utf-8")
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for name in registry.suite_names():
        assert f"`{name}`" in docs
        assert f"`{name}`" in readme
        parameters = re.search(r"([\d,]+) parameters", registry.suite(name).summary)[1]
        assert parameters in docs, name
