import optimizer_ranks
import pytest


@pytest.fixture(scope="module")
def on_ranks(request):
    """``on_ranks(function, size, *arguments)``: each rank's result, in order of the ranks.

    The function is a module's own, called with a ``Rank`` first; results are plain Python or
    NumPy. A module names what else its ranks need in ``PRELOAD``.
    """
    preload = optimizer_ranks.PRELOAD + getattr(request.module, "PRELOAD", [])
    optimizer_ranks.stop_server()

    def run(function, size, *arguments, timeout=120.0):
        optimizer_ranks.start_server(preload)
        return optimizer_ranks.run(function, size, arguments, timeout)

    yield run
    optimizer_ranks.stop_server()
