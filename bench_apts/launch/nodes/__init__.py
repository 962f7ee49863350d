"""A study on several machines: who leads, who follows, and how they find each other."""
