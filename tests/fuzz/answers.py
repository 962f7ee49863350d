"""The one error that input may lead to, looked at as it would be shown."""

from bench_apts.core.errors import UserError, one_line


class Answer:
    """Lets the block end in a UserError whose message can be shown, and in no other error.

    ``refused`` says afterwards whether it did.
    """

    def __init__(self):
        self.refused = False

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if not isinstance(error, UserError):
            return False
        line = one_line(str(error))
        if not (line.isprintable() and 0 < len(line) < 1_100):
            raise AssertionError(f"a message that cannot be shown: {line[:2_000]!r}") from error
        self.refused = True
        return True
