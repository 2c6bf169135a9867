"""Providers over HTTP: what is for sale, and checks that a worker does."""

from __future__ import annotations

from tests.web.world import World


def _worker_checks(world: World) -> None:
    """As a worker does whose node host serves the data directory."""

    class Local:
        def check(self) -> str:
            return "a node host serves the data directory"

    world.service.providers._tools.providers["local"] = Local()  # type: ignore[index]
    assert world.service.providers.check_asked("local")


def test_a_check_is_asked_for_over_http_and_read_when_a_worker_did_it(world: World) -> None:
    """202 at once: the process that serves has no credential, and here no provider at all. A line of the audit trail."""
    assert world.call("GET", "/api/providers").get_json()["providers"][0]["check"] is None
    asked = [
        world.call("POST", "/api/providers/check", body, headers={"Idempotency-Key": "k"})
        for body in (None, {"provider": "local"})
    ]
    assert [answer.status_code for answer in asked] == [202, 202]
    first, again = (answer.get_json()["providers"][0]["check"] for answer in asked)
    assert first == again == {
        "pending": True, "asked_at": first["asked_at"], "at": None, "ok": None, "says": None, "code": None
    }  # fmt: skip
    _worker_checks(world)
    viewer = world.service.accounts.create_token(owner="bob", name="v", role="viewer")["token"]
    found = world.call("GET", "/api/providers", token=viewer).get_json()["providers"][0]["check"]
    assert (found["pending"], found["ok"], found["code"]) == (False, True, None)
    assert found["says"] is None  # of an ssh provider it names hosts
    found = world.call("GET", "/api/providers").get_json()["providers"][0]["check"]
    assert found["says"] == "a node host serves the data directory"
    line = world.call("GET", "/api/audit").get_json()["lines"][0]
    assert (line["action"], line["outcome"], line["data"]["providers"]) == ("check_providers", "done", ["local"])


def test_a_provider_that_there_is_not_can_t_be_checked(world: World) -> None:
    """404, with those that there are."""
    refused = world.call("POST", "/api/providers/check", {"provider": "clud"})
    assert (refused.status_code, list(refused.get_json()["error"]["fields"])) == (404, ["provider"])
    assert "local" in refused.get_json()["error"]["message"]
