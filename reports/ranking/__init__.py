"""Who is ahead of whom: ratios to a reference, ranks, performance profiles."""
