"""The instruments: one per module, each usable and tested alone."""
