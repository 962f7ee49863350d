import optimizer_ranks
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """As the ranks have: models are small, and threads that wait for each other are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def on_ranks(request):
    """``on_ranks(function, size, *arguments)``: each rank's result, in order of the ranks.

    The function is a module's own, called with a ``Rank`` first; results are plain Python or
    NumPy. The server imports the module, and what it names in ``PRELOAD``, before it forks them.
    """
    preload = [*optimizer_ranks.PRELOAD, *getattr(request.module, "PRELOAD", ()),
               request.module.__name__]
    optimizer_ranks.stop_server()

    def run(function, size, *arguments, timeout=optimizer_ranks.PATIENCE_S, killed=()):
        optimizer_ranks.start_server(preload)
        return optimizer_ranks.run(function, size, arguments, timeout, killed)

    yield run
    optimizer_ranks.stop_server()
