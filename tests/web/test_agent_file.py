"""The agent's file over HTTP."""

from __future__ import annotations

import io
import zipfile

from tests.web.world import World


def test_a_new_server_fetches_the_agent_without_a_token(world: World) -> None:
    """It holds no secret; its length is said before, so that what broke off is noticed."""
    answer = world.call("GET", "/agent.pyz", token=None)
    assert (answer.status_code, answer.mimetype) == (200, "application/zip")
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert "taskflow/agent/__main__.py" in archive.namelist()


def test_who_has_it_is_told_so(world: World) -> None:
    """By its ETag, which is its content's; and the rest of it can be asked for."""
    whole = world.call("GET", "/agent.pyz", token=None)
    headers = {"If-None-Match": whole.headers["ETag"]}
    again = world.call("GET", "/agent.pyz", token=None, headers=headers)
    assert (again.status_code, again.data) == (304, b"")
    rest = world.call("GET", "/agent.pyz", token=None, headers={"Range": "bytes=100-"})
    assert (rest.status_code, rest.data) == (206, whole.data[100:])
