"""A cloud on this machine: the HTTP APIs of three providers over one ledger, and everything that goes wrong at them."""

from __future__ import annotations

from tests.support.fake_cloud.ledger import FakeResource, FakeServer, Faults, Ledger
from tests.support.fake_cloud.server import FakeCloud

__all__ = ["FakeCloud", "FakeResource", "FakeServer", "Faults", "Ledger"]
