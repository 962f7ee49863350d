"""Fronts of one N: time against bytes and against memory."""
