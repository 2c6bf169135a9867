"""Texts that try to be something else: options, paths, other transports, commands, other hosts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskflow.addresses import AddressRefused, check_host, check_resolved, is_loopback, repository_host
from tests.security.conftest import Picture
from tests.web.test_callbacks import BEAT
from tests.web.world import SPEC, World

METADATA = (
    "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "100.100.100.200", "metadata.google.internal", "0xa9fea9fe",
    "2852039166", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "169.254.169.254.", "0.0.0.0", "224.0.0.1",
)  # fmt: skip
PRIVATE = (
    "127.0.0.1", "localhost", "LOCALHOST.", "a.localhost", "[::1]", "10.0.0.1", "192.168.1.1", "172.16.0.1", "127.1",
    "0x7f000001", "2130706433", "[::ffff:10.0.0.1]", "[fd12::1]", "100.64.0.1", "[2002:7f00:1::]",
)  # fmt: skip
REPOSITORIES = (
    "--upload-pack=touch /tmp/x", "-u", "ext::sh -c touch% /tmp/x", "fd::17", "https://-oProxyCommand=x/y",
    "ssh://-oProxyCommand=touch/y", "git@-oProxyCommand=x:y", "-oProxyCommand=x@host:y", "git://host.example/x",
    "ftp://host.example/x", "file://host.example/x", "javascript:alert(1)", "../../etc", "relative/path", "~/repo",
    "https://user:hunter2@host.example/x", "https://host.example/x\n--upload-pack=y", "/srv/repo\0", "/srv/\ud800",
    "https://ghp_hunter2@host.example/x", "https://glpat-hunter2@host.example/x", f"https://{'hunter2' * 6}@host.example/x",
    "https://host.example/x?token=hunter2", "https://host.example/x#hunter2", "https://%67hp_hunter2@host.example/x",
    "https://", "https:///x", "https://host.example:99999/x", "", " ", "x" * 3000,
)  # fmt: skip
BRANCHES = (
    "--upload-pack=x", "-", "a..b", "a b", "a\nb", "refs/../x", "a~1", "a^", "a:b", "a?b", "a*", "a[b", "a\\b", "@{u}",
    "@", "a.lock", ".a", "a/.b", "a//b", "/a", "a/", "a.", "a\0b", "x" * 501, "a\x7fb",
)  # fmt: skip
NAMES = (
    "../../etc/passwd",
    "..%2f..%2fetc",
    "a b",
    "a;b",
    "$(touch x)",
    "`x`",
    "a'b",
    'a"b',
    "a\x00b",
    "%00",
    "x" * 81,
)


def _refused(world: World, picture: Picture, field: str, value: Any) -> dict[str, Any]:
    before = picture()
    answer = world.call("POST", "/api/tasks", {**SPEC, field: value})
    assert answer.status_code in (400, 422), answer.text
    error: dict[str, Any] = answer.get_json()["error"]
    assert list(error["fields"]) == [field]
    assert picture() == before
    assert "hunter2" not in answer.text
    return error


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_what_git_could_mistake_is_no_repository(world: World, picture: Picture, repository: str) -> None:
    """Options, other transports and control characters are refused by name, and nothing is written."""
    _refused(world, picture, "repository", repository)


@pytest.mark.parametrize("branch", BRANCHES)
def test_what_git_could_mistake_is_no_branch(world: World, picture: Picture, branch: str) -> None:
    """Git's own rules, before git sees it."""
    _refused(world, picture, "branch", branch)


@pytest.mark.parametrize("form", ["https://{}/a.git", "http://user@{}:8080/a", "ssh://git@{}/a", "git@{}:a.git"])
def test_a_node_is_not_sent_to_hosts_it_must_not_reach(world: World, picture: Picture, form: str) -> None:
    """However the address is written."""
    for host in (*METADATA, *PRIVATE):
        if "[" not in host or not form.startswith("git@"):  # the short form takes no brackets
            _refused(world, picture, "repository", form.format(host))


@pytest.mark.parametrize("host", METADATA)
def test_metadata_services_are_never_reached(host: str) -> None:
    """Also where private addresses are allowed."""
    with pytest.raises(AddressRefused):
        check_host(host, private=True)


@pytest.mark.parametrize("host", PRIVATE)
def test_private_hosts_are_reached_where_the_installation_says_so(host: str) -> None:
    """A git server of one's own is no attack."""
    check_host(host, private=True)
    with pytest.raises(AddressRefused, match="TASKFLOW_REPOSITORY_PRIVATE_HOSTS"):
        check_host(host, private=False)


def test_a_name_is_looked_at_again_where_it_is_used() -> None:
    """A public name that resolves to a private address, one of several even, is refused by the node."""
    for found in (["169.254.169.254"], ["93.184.215.14", "10.0.0.1"], ["fe80::1%eth0"]):
        with pytest.raises(AddressRefused):
            check_resolved("evil.example", private=False, resolve={"evil.example": found}.__getitem__)
    check_resolved("good.example", private=False, resolve=lambda _: ["93.184.215.14"])


@pytest.mark.parametrize(
    ("repository", "host"),
    [
        ("/srv/x", None), ("file:///srv/x", None), ("git@a.example:b/c.git", "a.example"),
        ("ssh://git@a.example:22/b", "a.example"), ("https://[::1]:8/x", "::1"),
    ],
)  # fmt: skip
def test_the_host_of_a_repository_is_the_one_that_git_asks(repository: str, host: str | None) -> None:
    """In each of the forms that are taken."""
    assert repository_host(repository) == host


@pytest.mark.parametrize(("field", "values"), [("node_id", NAMES), ("title", ("a\0b",))])
def test_names_are_names(world: World, picture: Picture, field: str, values: tuple[str, ...]) -> None:
    """No path, no shell, no NUL gets as far as a file name or a statement."""
    for value in values:
        _refused(world, picture, field, value)


@pytest.mark.parametrize("name", NAMES)
def test_ids_in_a_path_are_ids_or_nothing(world: World, picture: Picture, name: str) -> None:
    """404 for whatever is no id, with and without escapes; never a 5xx, never a file."""
    before = picture()
    for path in (f"/api/tasks/{name}", f"/api/nodes/{name}/destroy", f"/api/tasks/{name}/logs"):
        method = "POST" if path.endswith("destroy") else "GET"
        assert world.call(method, path.replace("\0", "%00"), {} if method == "POST" else None).status_code == 404
    assert picture() == before


@pytest.mark.parametrize("key", ["a b", "a\tb", "x" * 201, "ü", ""])
def test_an_idempotency_key_is_visible_ascii(world: World, picture: Picture, key: str) -> None:
    """Anything else is refused by the header's name."""
    before = picture()
    answer = world.call(
        "POST", "/api/tasks", SPEC, headers={"Idempotency-Key": key.encode("latin-1").decode("latin-1")}
    )
    assert answer.status_code == 422 and "Idempotency-Key" in answer.get_json()["error"]["fields"]
    assert picture() == before


@pytest.mark.parametrize(
    "env",
    [{"LD_PRELOAD\0": "x"}, {"A=B": "x"}, {"": "x"}, {"TASKFLOW_TOKEN": "x"}, {"taskflow_token": "x"}, {"A": "x\0"}],
)
@pytest.mark.parametrize("field", ["env", "secrets"])
def test_an_environment_can_not_name_ours(world: World, picture: Picture, field: str, env: dict[str, str]) -> None:
    """A task does not get at the variables by which the system works."""
    before = picture()
    assert world.call("POST", "/api/tasks", {**SPEC, field: env}).status_code == 422
    assert picture() == before


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254:80", "http://10.0.0.7:80", "http://evil.example:80", "http://user:pw@127.0.0.1:80",
        "http://127.0.0.1:80/path", "http://127.0.0.1:80?q", "http://127.0.0.1:80#f", "file:///etc/passwd",
        "gopher://127.0.0.1:80", "127.0.0.1:80", "http://127.0.0.1", "http://:80", "http://127.0.0.1:port", "",
        "http://127.0.0.1:80@evil.example:80",
    ],
)  # fmt: skip
def test_a_node_can_not_send_us_elsewhere(world: World, picture: Picture, address: str) -> None:
    """The control plane sends the node's agent token to that address: a local node's is on this machine."""
    place = world.place(world.submit())
    before = picture()
    path = f"/callbacks/nodes/{place.node_id}/heartbeat"
    answer = world.call("POST", path, {**BEAT, "address": address}, token=place.node_token)
    assert answer.status_code == 400 and "address" in answer.get_json()["error"]["fields"], answer.text
    assert picture() == before


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9", "[::1]"])
def test_loopback_is_known_in_every_writing(host: str) -> None:
    """What a local node may say."""
    assert is_loopback(host) and not is_loopback("192.168.0.1") and not is_loopback("localhost.evil.example")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b'{"a":' * 50_000, b'{"repository": 1e999}', b'{"repository": NaN}', b"\xff\xfe", b"null", b"[]",
        b'"text"', b"1", b'{"repository": "/x", "repository": "/y"', b"\x00",
    ],
    ids=["deep-list", "deep-object", "infinite", "nan", "not-utf8", "null", "list", "text", "number", "broken", "nul"],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(world: World, picture: Picture, body: bytes) -> None:
    """Nesting, numbers and bytes beyond JSON: a 4xx, nothing written."""
    before = picture()
    answer = world.call("POST", "/api/tasks", data=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert picture() == before


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_of_another_type_is_refused(world: World, picture: Picture, content_type: str) -> None:
    """A form that another site's page could send is not taken for JSON."""
    before = picture()
    answer = world.call("POST", "/api/tasks", data=json.dumps(SPEC).encode(), headers={"Content-Type": content_type})
    assert answer.status_code == 415
    assert picture() == before


def test_a_body_that_is_too_long_is_refused_before_it_is_read(world: World, picture: Picture) -> None:
    """413, with the limit."""
    before = picture()
    answer = world.call("POST", "/api/tasks", {**SPEC, "title": "x" * 1_100_000})
    assert answer.status_code == 413 and answer.get_json()["error"]["detail"]["limit_bytes"] == 1024 * 1024
    assert picture() == before
