"""Signed requests between the control plane and node agents: short-lived, and good for one request.

The header is ``Authorization: Signed <key id>:<body hash>.<time>.<signature>``. The signature covers method, path with
query, the body's hash and the time, so what is overheard can't be used for another request, nor for long; the token it
is made with never travels. The body itself is compared once the signature is known to be good.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from itsdangerous import BadSignature, TimestampSigner

SCHEME = "Signed"


class SignatureRefused(Exception):
    """The request is not signed as it should be. ``code``: ``malformed``, ``wrong`` or ``clock`` (too old, or ahead)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Signer(TimestampSigner):
    """Signs at a time that is given: signatures go by the control plane's clock, on both sides."""

    def __init__(self, key: str, method: str, target: str, now: float) -> None:
        super().__init__(key, salt=f"taskflow.request:{method} {target}", digest_method=hashlib.sha256)
        self._now = now

    def get_timestamp(self) -> int:
        return int(self._now)


@dataclass(frozen=True)
class Claim:
    """What a header claims, before anything of it is checked. ``key_id`` says which token it was signed with."""

    key_id: str
    body_hash: str
    signed: str


def sign(key: str, key_id: str, *, method: str, target: str, body: bytes, now: float) -> str:
    """The value of the ``Authorization`` header. ``target``: the path with its query; ``now``: the control plane's time."""
    claimed = f"{key_id}:{hashlib.sha256(body).hexdigest()}"
    return f"{SCHEME} {_Signer(key, method, target, now).sign(claimed).decode()}"


def read(header: str | None) -> Claim:
    """What an ``Authorization`` header claims. Raises ``SignatureRefused`` for one that is none."""
    scheme, _, signed = (header or "").partition(" ")
    claimed = signed.rpartition(".")[0].rpartition(".")[0]
    key_id, colon, body_hash = claimed.rpartition(":")
    if scheme.lower() != SCHEME.lower() or not colon or not key_id or not signed.isascii():
        raise SignatureRefused("malformed", "the request is not signed")
    return Claim(key_id, body_hash, signed)


def check(claim: Claim, key: str, *, method: str, target: str, now: float, max_age_s: float) -> None:
    """Raise ``SignatureRefused`` unless ``key`` signed this request within ``max_age_s`` seconds of ``now``."""
    signer = _Signer(key, method, target, now)
    try:
        _, at = signer.unsign(claim.signed, return_timestamp=True)
    except BadSignature:
        raise SignatureRefused("wrong", "the signature is not of this request and token") from None
    age_s = now - at.timestamp()
    if abs(age_s) > max_age_s:
        how = f"{age_s:.0f} s old" if age_s > 0 else f"{-age_s:.0f} s ahead"
        raise SignatureRefused("clock", f"the signature is {how}; at most {max_age_s:.0f} s are allowed")


def check_body(claim: Claim, body: bytes) -> None:
    """Raise ``SignatureRefused`` unless the signed hash is that of ``body``."""
    if hashlib.sha256(body).hexdigest() != claim.body_hash:
        raise SignatureRefused("wrong", "the body is not the one that was signed")
