"""A study on several machines: who leads, who follows, and what they must have in common."""
