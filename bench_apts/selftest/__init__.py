"""``bench-apts selftest``: whether instruments and optimizers work on this machine's device."""
