"""What happens inside a rank: one trial from its first step to its record."""
