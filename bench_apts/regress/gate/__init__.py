"""The gate: whether a working tree is slower or sends more than the code that it comes from."""

LEAST_PAIRS = 6
"""Fewer pairs are told from chance too seldom: six of each kind have C(12, 6) = 924 orders."""
