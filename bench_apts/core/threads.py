"""How many threads OpenMP's environment variable asks for: read here, and nowhere else."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

VARIABLE = "OMP_NUM_THREADS"

_DEFAULT = "1"
_NUMBER = re.compile(r"\s*\+?0*[1-9]\d{0,6}\s*", re.ASCII)


def openmp(environ: MutableMapping[str, str] = os.environ) -> int:
    """Return how many threads a rank computes with: the first number of ``OMP_NUM_THREADS``.

    OpenMP allows a list such as ``2,1``, with a number for each level of nested parallel regions;
    torch opens regions of the first level only. Unset or blank, the variable is set to 1.

    Args:
        environ: The environment variables.

    Raises:
        UserError: It is not a list of positive numbers (of at most 7 digits).
    """
    text = environ.get(VARIABLE, "")
    if not text.strip():
        environ[VARIABLE] = text = _DEFAULT
    levels = text.split(",")
    if not all(_NUMBER.fullmatch(level) for level in levels):
        raise UserError(f"{VARIABLE}='{text}' is not a list of positive numbers of threads; set "
                        f"it to one, for instance {VARIABLE}=1, or unset it")
    return int(levels[0])
