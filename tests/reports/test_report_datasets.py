"""What reports say of the data: other files under a known name, and waiting for samples."""

from types import SimpleNamespace

import msgspec
import pytest

from bench_apts.reports import data_origin
from bench_apts.suites.data_files import Source
from bench_apts.suites.known_data import FINGERPRINTS


def gathered(unpublished=(), ledgers=({},), name="mnist", sha256="1a2b3c" + "0" * 58):
    suite = SimpleNamespace(name="mine", data=SimpleNamespace(name=name), trainable=True)
    trials = [SimpleNamespace(trial=SimpleNamespace(suite=suite, data_sha256=sha256),
                              end=SimpleNamespace(ledger=ledger)) for ledger in ledgers]
    return SimpleNamespace(trials=trials, file=SimpleNamespace(
        unpublished=list(unpublished) or msgspec.UNSET))


@pytest.mark.parametrize(("name", "words"), [
    ("mnist", "mnist (data 1a2b3c…, not the published files)"),
    ("cifar10", "cifar10 (data 1a2b3c…, not known to be the published files)")])
def test_other_data_under_a_known_name_is_called_by_its_fingerprint(name, words):
    assert [*data_origin.data_caveats(gathered(name=name))] == []
    ((title, text),) = data_origin.data_caveats(gathered([name], name=name))
    assert "Other data" in title
    assert words in text


def test_a_long_wait_for_data_is_told():
    short, long = {"train_s": 9.5, "data_s": 0.5}, {"train_s": 3.0, "data_s": 1.0}
    assert [*data_origin.data_caveats(gathered(ledgers=[short]))] == []
    assert [*data_origin.data_caveats(gathered(ledgers=[{"train_s": 1.0}]))] == []
    ((_, text),) = data_origin.data_caveats(gathered(ledgers=[long, long, short]))
    assert "25" in text


@pytest.mark.parametrize(("name", "kind", "sha256", "published"), [
    ("mnist", "parquet", FINGERPRINTS["mnist"], True),
    ("mnist", "parquet", "0" * 64, False), ("cifar10", "parquet", "0" * 64, False),
    ("cifar10", "named", "0" * 64, True)])
def test_what_counts_as_published(name, kind, sha256, published):
    assert Source(name, kind).is_published(sha256) is published
