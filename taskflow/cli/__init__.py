"""The command line. ``main`` is the console script ``taskflow``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``taskflow`` with ``argv`` (default: the process' own). Returns the exit code."""
    from taskflow.cli.app import cli

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no letter of an output ends what it reports on
    return cli.main(args=None if argv is None else list(argv), standalone_mode=False)
