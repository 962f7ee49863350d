"""A coverage-guided fuzzer of all that reads files or words; started by its test, or by hand:

    python tests/fuzz/harness_atheris.py KIND SCRATCH [libFuzzer's options] [CORPUS]

KIND is ``suite``, ``words`` or ``record``. Anything but a result or a UserError is a crash, which
libFuzzer reports with the input that led to it.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bench_apts", "tomllib"]):
    from bench_apts.core import configuration, store
    from bench_apts.plugins import suite_file

from answers import Answer
from mutations import damaged

KIND, SCRATCH = sys.argv[1], Path(sys.argv[2])
SEED = (SCRATCH / "seed").read_bytes()


class Chosen:
    """Choices out of the fuzzer's bytes."""

    def __init__(self, provider):
        self._provider = provider

    def randrange(self, number):
        return self._provider.ConsumeIntInRange(0, number - 1)


def suite(provider):
    path = SCRATCH / "damaged.toml"
    path.write_bytes(damaged(damaged(SEED, Chosen(provider)), Chosen(provider)))
    suite_file.load(path)


def words(provider):
    text = provider.ConsumeUnicodeNoSurrogates(200)
    for part in configuration.split_selectors(text):
        configuration.parse_selector(part)
    table = {}
    suite_file._override(table, f"suite.{text}")
    configuration.find_unstorable_value(table)


def record(provider):
    path = SCRATCH / "damaged.jsonl"
    path.write_bytes(damaged(damaged(SEED, Chosen(provider)), Chosen(provider)))
    store.read_trial(path)


def one_input(content):
    with Answer():
        {"suite": suite, "words": words, "record": record}[KIND](
            atheris.FuzzedDataProvider(content))


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[3:]], one_input)
    atheris.Fuzz()
