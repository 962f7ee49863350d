"""Trials as process groups, forked from a warm server by torch's elastic launcher."""
