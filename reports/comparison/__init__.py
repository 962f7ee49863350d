"""Two studies or two optimizers side by side."""
