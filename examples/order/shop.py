"""What lies outside of the pipeline: a warehouse and a payment provider. Both honour idempotency keys.

Here they are files of one directory, so that the example runs without anybody; put clients of real ones in their place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Shop(Protocol):
    """What the pipeline asks of the outside. A call that repeats a key changes nothing."""

    def reserve(self, key: str, item: str, quantity: int) -> str:
        """Put goods aside; the reservation's id."""

    def release(self, key: str, reserved_by: str) -> None:
        """Give back what was put aside with the key ``reserved_by``, if anything was."""

    def ask_payment(self, key: str, amount: int, callback_url: str, callback_token: str) -> None:
        """Ask the payment provider to collect ``amount`` cents, and to send what came of it to the callback."""

    def refund(self, key: str, payment: str) -> None:
        """Give the money back."""

    def ship(self, key: str, reservation: str, address: str) -> str:
        """Send the goods; the parcel's id."""

    def parcel(self, shipped_by: str) -> str | None:
        """The id of the parcel that was sent with the key ``shipped_by``; None: none was."""


class Directory:
    """A shop whose requests are files, one for each idempotency key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True)

    def reserve(self, key: str, item: str, quantity: int) -> str:
        """See ``Shop``."""
        return self._once(key, {"reserve": item, "quantity": quantity})

    def release(self, key: str, reserved_by: str) -> None:
        """See ``Shop``."""
        if self._file(reserved_by).exists():
            self._once(key, {"release": reserved_by})

    def ask_payment(self, key: str, amount: int, callback_url: str, callback_token: str) -> None:
        """See ``Shop``."""
        self._once(key, {"pay": amount, "callback_url": callback_url, "callback_token": callback_token})

    def refund(self, key: str, payment: str) -> None:
        """See ``Shop``."""
        self._once(key, {"refund": payment})

    def ship(self, key: str, reservation: str, address: str) -> str:
        """See ``Shop``."""
        return self._once(key, {"ship": reservation, "address": address})

    def parcel(self, shipped_by: str) -> str | None:
        """See ``Shop``."""
        file = self._file(shipped_by)
        return file.stem if file.exists() else None

    def _file(self, key: str) -> Path:
        return self._path / f"{key.replace(':', '.')}.json"

    def _once(self, key: str, request: Mapping[str, Any]) -> str:
        file = self._file(key)
        aside = self._path / f".{file.stem}.{os.getpid()}"
        aside.touch(mode=0o600)
        aside.write_text(json.dumps(request))
        try:
            os.link(aside, file)  # whole or not at all, and only once
        except FileExistsError:
            pass
        finally:
            aside.unlink()
        return file.stem


def from_environment() -> Shop:
    """The shop that ``ORDER_SHOP_DIR`` names."""
    return Directory(Path(os.environ.get("ORDER_SHOP_DIR", "order-shop")))
