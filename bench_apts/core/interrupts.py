"""SIGTERM and Ctrl-C: end a block in order, wherever the signal is received."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_RESEND_S = 0.01


class Interrupted(Exception):
    """The user or the system asked the command to stop; the trial's ranks have ended.

    Attributes:
        number: The signal's number.
        lost: Python raised it within a finalizer, where it can end nothing.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.lost = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the block by ``Interrupted``.

    A SIGTERM that follows does nothing: it would cut off what the first one ends in order.
    """
    raised: list[Interrupted] = []

    def ignore(number: int, frame: FrameType | None) -> None:
        """Do nothing; unlike SIG_IGN, programs that are started do not inherit a handler."""

    def end(number: int, frame: FrameType | None) -> None:
        if raised and not raised[-1].lost:
            return
        raised.append(Interrupted(number))
        raise raised[-1]

    after = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except Interrupted:
        after = ignore
        raise
    except KeyboardInterrupt as error:
        after = ignore
        raise Interrupted(signal.SIGINT) from error
    finally:
        signal.signal(signal.SIGTERM, after)


def resend_lost_signals() -> None:
    """Send a signal again whose exception was raised within a finalizer.

    Python runs a signal's handler between any two instructions, also those of ``__del__`` or of a
    weak reference's callback. An exception that is raised there ends nothing: Python prints its
    traceback and goes on.
    """
    report = sys.unraisablehook

    def resend(unraisable: sys.UnraisableHookArgs) -> None:
        number = _signal_number(unraisable.exc_type, unraisable.exc_value)
        if number is None:
            report(unraisable)
            return
        if isinstance(unraisable.exc_value, Interrupted):
            unraisable.exc_value.lost = True
        # Not by threading.Thread: the finalizer may run where a lock of that module is held.
        _thread.start_new_thread(_send, (number,))

    sys.unraisablehook = resend


def _signal_number(kind: type[BaseException], error: BaseException | None) -> int | None:
    """Return the number of the signal whose handler raised an exception, or None."""
    if issubclass(kind, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, Interrupted):
        return error.number
    number = getattr(error, "sigval", None)  # torch's SignalException
    return number if isinstance(number, int) else None


def _send(number: int) -> None:
    time.sleep(_RESEND_S)  # until the finalizer has ended
    os.kill(os.getpid(), number)
