"""``bench-apts merge``: join the results folders of several machines into a new one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument


def command(
    out: Annotated[Path, Argument(
        metavar="OUT", help="The new folder, which is made.", show_default=False)],
    folders: Annotated[list[Path], Argument(
        metavar="FOLDERS", help="Results folders, for instance of each --shard.",
        show_default=False)],
) -> None:
    """Join results folders of one study into a new one."""
    from bench_apts.core.units import plural
    from bench_apts.study import results_merge

    found = results_merge.merge_results(out, folders, ["bench-apts", *sys.argv[1:]])
    print(f"merged: {plural(found.trials, 'trial')} of {plural(len(folders), 'folder')}, "
          f"{found.twice} of them in more than one")
    if found.headless:
        print(f"note: left out {plural(found.headless, 'file')} without a whole header: the "
              "writer was killed")
    for copy in found.copies:
        print(f"note: left out {copy}")
    print(f"results: {out}")
