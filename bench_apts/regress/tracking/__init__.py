"""Numbers over commits: asv in the environment that holds this checkout."""
