"""bench-apts: which optimizer reaches the accuracy you need for the smallest total bill?"""

__version__ = "0.1.0"
