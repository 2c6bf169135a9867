"""What the page of nodes says of providers' credentials."""

from __future__ import annotations

from sqlalchemy import insert

from taskflow.db.models import ProviderAccount
from taskflow.db.providers import end_check
from tests.dashboard.conftest import See
from tests.web.world import World

_HOSTILE = "<img src=x onerror=alert(1)> refused"


def test_the_last_check_of_a_credential_is_shown(world: World, see: See) -> None:
    """Whether it works, since when that is known, and what is wrong, as text; and that a worker is waited for."""
    assert "none is needed" in see("/nodes").text
    world.database.write(
        lambda tx: tx.execute(insert(ProviderAccount).values(name="local", offers_rest={}, changed_at=1))
    )
    world.call("POST", "/api/providers/check")
    assert "none is needed" not in see("/nodes").text
    now, refused = world.service.now() + 1.0, {"ok": False, "says": _HOSTILE, "code": "provider_auth"}
    world.database.write(lambda tx: end_check(tx, "local", refused, now))
    page = see("/nodes")
    assert page.problems() == []
    assert _HOSTILE in page.text and "<img src=x" not in page.html
