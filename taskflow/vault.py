"""Secrets: what is encrypted at rest, and the tokens of nodes and workspaces.

Both come from one installation secret. Tokens of nodes and workspaces are derived from it, so that a repeated request
carries the same token, and only their hash is stored; users' tokens are random. None is ever logged.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from itsdangerous import URLSafeSerializer

from taskflow.errors import InfrastructureError
from taskflow.logs import MASK

API_TOKEN_PREFIX = "tf_"  # noqa: S105
_SHORTEST = 4  # characters; hiding shorter ones would shred a text and say what they are


class Vault:
    """Encrypts and derives under the installation's ``secret_key``."""

    def __init__(self, secret_key: str) -> None:
        if len(secret_key) < 16:
            raise InfrastructureError(
                "the secret key is shorter than 16 characters",
                code="secret_key",
                advice="set TASKFLOW_SECRET_KEY to a long random text, the same for every process",
            )
        self._secret_key = secret_key
        derived = hashlib.sha256(b"taskflow.vault.encrypt:" + secret_key.encode()).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(derived))

    def encrypt(self, values: Mapping[str, str]) -> bytes:
        """``values`` sealed for the database."""
        return self._fernet.encrypt(json.dumps(dict(values)).encode())

    def decrypt(self, sealed: bytes | None) -> dict[str, str]:
        """What ``encrypt`` sealed. Raises ``InfrastructureError`` when the secret key is another."""
        if not sealed:
            return {}
        try:
            opened: dict[str, str] = json.loads(self._fernet.decrypt(bytes(sealed)))
        except InvalidToken as error:
            raise InfrastructureError(
                "stored secrets can't be decrypted",
                code="secret_key",
                advice="TASKFLOW_SECRET_KEY is not the one the secrets were stored with",
            ) from error
        return opened

    def fingerprint(self, values: Mapping[str, Any]) -> str:
        """Tells equal content from other content. Keyed: a weak secret in it can't be guessed from the database."""
        said = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
        return hmac.new(self._secret_key.encode(), b"taskflow.vault.fingerprint:" + said, hashlib.sha256).hexdigest()

    def derive_token(self, scope: str, subject_id: str, generation: int = 0) -> str:
        """The token of a node or workspace: the same each time. ``scope``: node, workspace, bootstrap, or agent (inbound).

        ``generation`` counts its renewals.
        """
        named: Any = [subject_id, generation] if generation else subject_id
        return str(URLSafeSerializer(self._secret_key, salt=f"taskflow.{scope}").dumps(named))

    def derive_key(self, purpose: str) -> bytes:
        """32 bytes for one purpose, the same each time."""
        return hmac.new(self._secret_key.encode(), f"taskflow.vault.key:{purpose}".encode(), hashlib.sha256).digest()

    def mask_outcome(self, outcome: Mapping[str, Any], sealed: bytes | None) -> dict[str, Any]:
        """A session's outcome with its task's ``sealed`` secrets replaced in the texts that its command has a hand in.

        Those are names of files and what programs said; the rest is the protocol's own words, which a secret may happen
        to contain. When the secrets can't be opened, those texts are withheld as a whole: how it ended counts anyway.
        """
        values: list[str] | None
        try:
            secrets = [said for value in self.decrypt(sealed).values() for said in (value, value.strip())]
            values = sorted({said for said in secrets if len(said) >= _SHORTEST}, key=len, reverse=True)
        except InfrastructureError:
            values = None

        def masked(text: str) -> str:
            if values is None:
                return MASK
            for value in values:
                text = text.replace(value, MASK)
            return text

        found, error = dict(outcome), outcome.get("error")
        if outcome.get("changed_files"):
            found["changed_files"] = [masked(name) for name in outcome["changed_files"]]
        if error and error.get("message"):
            found["error"] = {**error, "message": masked(error["message"])}
        return found


def new_api_token() -> str:
    """A user's token; shown once, stored as its hash."""
    return API_TOKEN_PREFIX + secrets.token_urlsafe(32)


def new_secret(purpose: str) -> str:
    """A random text for ``purpose``, of the form of a token, so that log lines mask it; stored as its hash."""
    return f"{API_TOKEN_PREFIX}{purpose}_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> str:
    """What is stored of a token. It has enough entropy for a plain hash."""
    return hashlib.sha256(token.encode()).hexdigest()
