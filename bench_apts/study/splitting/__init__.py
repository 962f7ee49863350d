"""A study split: over parts of the trials, over commands on one folder, and joined again."""
