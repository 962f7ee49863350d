"""The course of training: the data of all curves, and their figures."""
