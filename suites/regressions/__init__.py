"""Benchmarks over commits, run by asv: see docs/regressions.md."""
