"""Who signed a request: nodes and workspaces sign theirs with the token that is derived for them, and never send it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from taskflow import signing
from taskflow.errors import Unauthorized
from taskflow.service.accounts import Accounts, Caller
from taskflow.settings import Settings
from taskflow.vault import Vault

#: Which token a request says that it was signed with: scope, id, and how often the token was renewed.
_KEY_ID = re.compile(r"(?P<scope>node|workspace):(?P<subject>[A-Za-z0-9_.-]{1,80}):(?P<generation>0|[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class SignedRequest:
    """A request whose signature is good; its body is still to be compared with what was signed."""

    caller: Caller
    claim: signing.Claim

    def check_body(self, body: bytes) -> None:
        """Raise ``Unauthorized`` unless ``body`` is the one that was signed."""
        try:
            signing.check_body(self.claim, body)
        except signing.SignatureRefused as error:
            raise _refused(error) from None


class Signatures:
    """Checks signatures against the tokens of nodes and workspaces. ``now``: the engine's time, which they go by."""

    def __init__(self, accounts: Accounts, vault: Vault, settings: Settings, now: Callable[[], float]) -> None:
        self._accounts = accounts
        self._vault = vault
        self._max_age_s = settings.signature_age_s
        self._now = now

    def check(self, authorization: str, scope: str, *, method: str, target: str) -> SignedRequest:
        """Whose request this is; ``target`` is its path with its query.

        Raises ``Unauthorized`` (code ``clock``: too old, or ahead of our clock), or ``Forbidden`` when the token's scope
        is another. The signature comes first, as it needs no store: what is forged never reaches the database.
        """
        try:
            claim = signing.read(authorization)
            named = _KEY_ID.fullmatch(claim.key_id)
            if named is None:
                raise signing.SignatureRefused("malformed", "the signature names no token of a node or workspace")
            token = self._vault.derive_token(named["scope"], named["subject"], int(named["generation"]))
            signing.check(claim, token, method=method, target=target, now=self._now(), max_age_s=self._max_age_s)
        except signing.SignatureRefused as error:
            raise _refused(error) from None
        return SignedRequest(self._accounts.authenticate(token, scope), claim)


def _refused(error: signing.SignatureRefused) -> Unauthorized:
    return Unauthorized(str(error), code="clock" if error.code == "clock" else None)
