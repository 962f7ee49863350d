"""The checks of ``bench-apts test``: data, network and loss, trials and target of a suite."""
