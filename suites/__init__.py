"""The training problems: one TOML file per suite, and the data and models that they name.

``data`` finds, decodes and maps data sets; ``models`` builds networks. Importing this package
alone loads neither, so that listing the suites stays fast.
"""
