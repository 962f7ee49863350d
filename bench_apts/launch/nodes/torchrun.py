"""The store of a torchrun that started this command: through it node 0 tells its port."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.distributed import Store  # type: ignore[attr-defined]

_KEY = "port"


def publish(outer: Mapping[str, str], port: int, patience_s: float) -> Store:
    """Tells the other nodes where node 0 waits.

    Args:
        outer: torchrun's variables.
        port: The port, on the host that torchrun names.
        patience_s: For how long the others may look it up, in seconds.

    Returns:
        The store, which may live in this process and must outlast the others' look.
    """
    with _store(outer, patience_s) as store:
        store.set(_KEY, str(port))
    return store


def look_up(outer: Mapping[str, str], patience_s: float) -> int:
    """Waits until node 0 has told its port, and returns it.

    Raises:
        UserError: It has not in time.
    """
    with _store(outer, patience_s) as store:
        return int(store.get(_KEY))


@contextmanager
def _store(outer: Mapping[str, str], patience_s: float) -> Iterator[Store]:
    from torch.distributed import (  # type: ignore[attr-defined]
        DistError,
        PrefixStore,
        rendezvous,
    )

    before = dict(os.environ)
    os.environ.update(outer)
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=patience_s)))
        attempt = outer.get("TORCHELASTIC_RESTART_COUNT", "0")
        yield PrefixStore(f"bench-apts/{attempt}", store)
    except (DistError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"torchrun's other nodes did not answer within {patience_s:.0f} s "
                        f"({reason}); name node 0 with --rendezvous HOST:PORT") from error
    finally:
        os.environ.clear()
        os.environ.update(before)
