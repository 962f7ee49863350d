"""Checkpoints of trials: what is in them, when they are written, how a trial goes on."""
