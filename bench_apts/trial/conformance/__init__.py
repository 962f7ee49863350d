"""Checks inside a rank that a stepper does what its reports and the contract claim."""
