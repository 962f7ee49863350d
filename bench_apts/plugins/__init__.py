"""What an optimizer, a suite or a task offers, how it is found, and what its code may use."""
