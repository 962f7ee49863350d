"""Lets ``python -m bench_apts`` do what the ``bench-apts`` command does."""

from bench_apts.cli import main

if __name__ == "__main__":
    main()
