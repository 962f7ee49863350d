"""Pure functions of records and numbers: no input or output, no torch."""
