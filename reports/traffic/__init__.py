"""Bytes by collective and phase, and what formulas say of them."""
