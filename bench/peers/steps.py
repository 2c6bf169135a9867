"""What all peers do alike."""

#: Empty steps of a task in ``chain``.
STEPS = 7
