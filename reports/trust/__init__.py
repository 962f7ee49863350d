"""What trust-region methods tell of their steps."""
