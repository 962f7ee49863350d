"""What the fuzzers share: the tests' own records, a planted plug-in, a look at side effects."""

import contextlib
import gc
import sys
import threading
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "reports"))  # report_fixture writes records

_EFFECTS = frozenset({
    "open", "import", "exec", "os.system", "os.exec", "os.posix_spawn", "os.fork",
    "subprocess.Popen", "socket.connect", "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir",
    "shutil.rmtree", "_thread.start_new_thread",
})


@pytest.fixture
def planted(tmp_path_factory, monkeypatch):
    """A folder to work in, with a plug-in whose import would leave a trace; returns the trace."""
    folder = tmp_path_factory.mktemp("planted")
    trace = folder / "trace"
    (folder / "planted.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.chdir(folder)
    return trace


class _Effects:
    """Notes what the interpreter is asked to read, run or change; hooks cannot be taken back."""

    def __init__(self):
        self.seen, self._on = [], None
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if self._on != threading.get_ident() or event not in _EFFECTS:
            return
        caller = sys._getframe(1).f_globals.get("__name__")
        if (event, caller) != ("exec", "typing"):  # which reads our own annotations
            self.seen.append((event, *arguments[:1]))

    @contextlib.contextmanager
    def watched(self):
        # What other threads do, or garbage that is collected, is not the doing of the block.
        gc.disable()
        self.seen, self._on = [], threading.get_ident()
        try:
            yield self.seen
        finally:
            self._on = None
            gc.enable()


@pytest.fixture(scope="session")
def effects():
    """Has ``with effects.watched() as seen``: pairs of an effect's kind and its object."""
    return _Effects()
