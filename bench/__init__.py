"""Measurements, ours and the peers', side by side in the same run: ``python -m bench WORKLOAD``.

No test asserts a time that was measured here. Each peer runs with what its own documentation calls best for the case,
and its code is short enough to be judged.
"""
