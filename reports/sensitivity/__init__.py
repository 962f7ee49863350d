"""What hyperparameters do to cost and success, and what carries over between N."""
