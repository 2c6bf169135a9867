"""The real stack under a seeded monkey: ``python -m tests.chaos --help``."""
