"""Readers of other programs' logs: each makes records of them, in a results folder."""
