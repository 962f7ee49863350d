"""Numbers over commits, as asv stored them."""
