"""Costs against the number of ranks, measured and modelled."""
