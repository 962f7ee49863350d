"""The optimizer backends: one file (or folder) each."""
