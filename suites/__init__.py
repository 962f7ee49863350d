"""The training problems: one TOML file per suite, and the data and models that they name.

``data`` finds, decodes and maps data sets, ``generated`` computes others; ``models`` and
``networks`` build networks. Importing this package alone loads none of them, so that listing the
suites stays fast.
"""
