"""Data sets that are computed from an integer seed, so that no file has to be fetched.

One module per family, in NumPy. ``text``, ``recall``, ``graphs``, ``friedman``, ``denoising`` and
``collocation`` return ``draws.GeneratedSplits``, a dictionary of splits; ``derived`` makes data
sets of known ones by noise and by choice, and returns the indices of a subset or of shards.
The arrays are the same on every machine and for every version of NumPy: ``draws`` says how.
"""
