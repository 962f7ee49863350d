"""The bill of tuning: its tables and its figures."""
