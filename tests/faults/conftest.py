"""Starts commands that something will happen to."""

import sys
from pathlib import Path

import pytest
from fault_commands import Command

sys.path.append(str(Path(__file__).parents[1] / "reports"))  # report_fixture writes records


@pytest.fixture
def tmp_path(short_path):
    """Takes the place of pytest's, as commands keep their temporary files in it."""
    return short_path


@pytest.fixture
def launch(environment, tmp_path):
    """Starts ``bench-apts …`` as a ``Command``, and leaves nothing of it behind."""
    running = []

    def launch(*arguments, **options):
        running.append(Command(arguments, tmp_path, environment, **options))
        return running[-1]

    yield launch
    for command in running:
        command.kill()
