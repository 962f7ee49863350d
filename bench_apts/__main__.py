"""Lets ``python -m bench_apts`` do what the ``bench-apts`` command does."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # `python -m` looks in the working directory first, where a file of the user's would stand
        # in for any module of its name. Modules there are still found.
        sys.path.append(sys.path.pop(0))

    from bench_apts.cli import main

    main()
