"""Whether a change costs time, traffic or accuracy: the gate, and numbers over commits."""
