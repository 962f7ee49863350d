"""Which optimizer to take, for which purpose."""
