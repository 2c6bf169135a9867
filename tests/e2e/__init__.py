"""The whole stack as real processes. ``python -m pytest tests/e2e -v -s`` prints the measured times."""
