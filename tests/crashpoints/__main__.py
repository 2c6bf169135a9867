"""Record the list again, after a call was added or removed: ``python -m tests.crashpoints``; look at its diff."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.crashpoints.points import LIST, kept
from tests.crashpoints.stack import CrashStack

_WALKS = 6


def main() -> None:
    """Write the points that every one of some walks reached."""
    with tempfile.TemporaryDirectory(prefix="taskflow-crashpoints-") as folder:
        root = Path(folder)
        with CrashStack(root, "") as stack:
            walks = []
            for number in range(_WALKS):
                stack.seen()
                stack.walk(root / f"evidence-{number}")
                walks.append(kept(stack.seen()))
    always = set.intersection(*walks)
    LIST.write_text("".join(f"{point}\n" for point in sorted(always)), encoding="utf-8")
    print(f"{len(always)} points; by chance: {sorted(set.union(*walks) - always)}")


if __name__ == "__main__":
    main()
