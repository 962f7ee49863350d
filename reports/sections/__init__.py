"""The parts of a suite's chapter, one module each; see ``reports/parts.py``."""
