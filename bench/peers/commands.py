"""How a peer in a process of its own is told what to do: a JSON line each way, over its standard streams."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any


def commands() -> Iterator[tuple[str, Any]]:
    """What is asked for, one after the other, as (name, argument). Asking for the next says that the last is done."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, argument = json.loads(line)
        yield name, argument
        print(json.dumps("done"), flush=True)
