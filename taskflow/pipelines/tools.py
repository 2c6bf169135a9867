"""What a pipeline of your own may ask of the installation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from taskflow.db.own_runs import grant_callback
from taskflow.db.runs import get_run
from taskflow.db.session import Database
from taskflow.settings import Settings
from taskflow.vault import Vault, hash_token


@dataclass(frozen=True)
class Callback:
    """Where an outside system sends one signal of one run, and the token that it shows there, until ``expires_at``."""

    url: str
    token: str = field(repr=False)
    expires_at: float


class Tools:
    """Given to a pipeline that is declared as a function of them: ``def order(tools: Tools) -> Pipeline``."""

    def __init__(self, settings: Settings, database: Database, vault: Vault, now: Callable[[], float]) -> None:
        self.settings = settings
        self._database = database
        self._vault = vault
        self._now = now

    def callback(self, run_id: str, signal: str, *, valid_s: float) -> Callback:
        """The address at which ``signal`` is taken for this run, for ``valid_s`` seconds from now at least.

        Asked again it is the same address and token, good for longer and never for less. The token opens nothing else;
        only its hash is stored. Raises ``InfrastructureError``.
        """
        token, now = self._vault.derive_token("run", f"{run_id}:{signal}"), self._now()

        def work(tx: Connection) -> float:
            get_run(tx, run_id, lock=True)  # one at a time: look and insert are one step
            return grant_callback(tx, run_id, signal, token_hash=hash_token(token), now=now, expires_at=now + valid_s)

        expires_at = self._database.write(work)
        base = self.settings.public_url or f"http://127.0.0.1:{self.settings.port}"
        return Callback(f"{base.rstrip('/')}/callbacks/runs/{run_id}/signals/{signal}", token, expires_at)
