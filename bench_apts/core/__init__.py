"""Errors, files, records, what is run, units: imported by all, importing nothing above."""
