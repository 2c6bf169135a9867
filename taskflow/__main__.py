"""``python -m taskflow``: the same as ``taskflow``."""

from __future__ import annotations

import sys

from taskflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
