"""Millions of records are not walked over, and whoever asked for that leaves no trace."""

import gc

import pytest

from bench_apts.core.store import collect_only_new, pause_gc


class Node:
    """Refers to itself, so that only the collector can find it."""

    def __init__(self):
        self.me = self


@pytest.fixture(autouse=True)
def untouched():
    before = gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()
    yield
    assert (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()) == before


def test_nothing_is_collected_while_it_is_paused():
    with pause_gc():
        assert not gc.isenabled()
        with pause_gc():
            pass
        assert not gc.isenabled()


def test_what_was_made_is_spared_and_what_is_added_is_not():
    with collect_only_new(lambda: [{"record": [number]} for number in range(1_000)]) as made:
        assert gc.get_freeze_count() > len(made)
        assert gc.isenabled()
        assert not any(found is made[0] for found in gc.get_objects())
        gc.collect()
        Node()
        assert gc.collect() >= 1
    assert any(found is made[0] for found in gc.get_objects())


def test_an_error_leaves_no_trace():
    with pytest.raises(ZeroDivisionError), collect_only_new(list):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), collect_only_new(lambda: 1 // 0):
        pass
