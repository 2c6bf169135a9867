"""Deliberate faults, one at a time, in a copy of the tree: the tests must notice every one. ``python -m tests.mutants``."""
