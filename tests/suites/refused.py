"""Data that must be refused, in one line."""

import pytest

from bench_apts.core.errors import UserError
from bench_apts.suites import data


def refusal(name, folder, offline=True):
    """Return the message that a user sees."""
    with pytest.raises(UserError) as caught:
        data.prepare(name, folder, offline)
    message = str(caught.value)
    assert "\n" not in message
    return message
