"""A signed request is good for itself alone, and not for long."""

from __future__ import annotations

import pytest

from taskflow.signing import SignatureRefused, check, check_body, read, sign

NOW = 1_700_000_000.0
BODY = b'{"a": 1}'


def _signed(now: float = NOW, **changed: object) -> str:
    asked: dict[str, object] = {"method": "PUT", "target": "/v1/workspaces/ws-1?fence=2", "body": BODY, "now": now}
    return sign("the-token", "node:node-1:0", **(asked | changed))  # type: ignore[arg-type]


def _check(
    header: str, *, key: str = "the-token", method: str = "PUT", target: str = "/v1/workspaces/ws-1?fence=2",
    now: float = NOW, body: bytes = BODY,
) -> None:  # fmt: skip
    claim = read(header)
    check(claim, key, method=method, target=target, now=now, max_age_s=60.0)
    check_body(claim, body)


def test_what_was_signed_is_taken() -> None:
    """Also a little later, and by a clock that is a little behind; the key's id is told before anything is checked."""
    _check(_signed())
    _check(_signed(), now=NOW + 59)
    _check(_signed(), now=NOW - 59)
    assert read(_signed()).key_id == "node:node-1:0"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"key": "another"}, "wrong"),
        ({"method": "DELETE"}, "wrong"),
        ({"target": "/v1/workspaces/ws-2?fence=2"}, "wrong"),
        ({"target": "/v1/workspaces/ws-1?fence=3"}, "wrong"),
        ({"body": b'{"a": 2}'}, "wrong"),
        ({"now": NOW + 62}, "clock"),
        ({"now": NOW - 62}, "clock"),
    ],
    ids=["key", "method", "path", "query", "body", "old", "ahead"],
)
def test_it_is_refused_for_anything_else(changed: dict[str, object], code: str) -> None:
    """Another key, method, path, query or body, and the same one later."""
    with pytest.raises(SignatureRefused) as caught:
        _check(_signed(), **changed)  # type: ignore[arg-type]
    assert caught.value.code == code


@pytest.mark.parametrize(
    "header",
    [None, "", "Signed", "Signed ", "Bearer abc", "Signed a.b.c", "Signed a:b", "Signed :h.t.s", "Signed é:h.t.s"],
)
def test_a_header_that_is_none_is_refused(header: str | None) -> None:
    """It never becomes a claim, or one that no key signed."""
    with pytest.raises(SignatureRefused):
        _check(header or "")


def test_neither_id_nor_hash_nor_time_can_be_changed() -> None:
    """Every part of the header is covered."""
    signed = _signed()
    for old, new in (("node-1", "node-2"), (signed.split(":")[3][:8], "00000000"), (signed.split(".")[-2], "AAAAAA")):
        with pytest.raises(SignatureRefused) as caught:
            _check(signed.replace(old, new))
        assert caught.value.code == "wrong"
