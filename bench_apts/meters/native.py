"""The pre-hook in C++: compiled when first asked for, a small share of the Python hook's cost.

torch keeps what it compiled (in ``TORCH_EXTENSIONS_DIR`` or the user's cache) under a lock of the
operating system, so that ranks which ask together wait for one compilation.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from bench_apts.core.errors import UserError

_TELLING = re.compile(r"\berror:|not found|No such file")
"""What the line that tells has among all that ninja and the compiler print."""

_SOURCE = Path(__file__).with_name("native.cpp")


@functools.cache
def module() -> Any:
    """Returns the compiled native.cpp, most of a minute later where it is not cached.

    Raises:
        UserError: It cannot be compiled here.
    """
    try:
        from torch.utils import cpp_extension

        return cpp_extension.load("bench_apts_meter", [str(_SOURCE)], extra_cflags=["-O2"])
    except (ImportError, OSError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        reason = next(filter(_TELLING.search, lines), lines[0])
        raise UserError(
            f"the native communication meter cannot be compiled: {reason}; install a C++ "
            "compiler, ninja and setuptools, or unset BENCH_APTS_COMM_METER") from error
