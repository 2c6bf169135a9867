"""What a submitted task says: checked beyond its schema, and what it is called where it says nothing of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskflow.addresses import AddressRefused, check_host, repository_host
from taskflow.db.nodes import has_node_of
from taskflow.db.session import Database
from taskflow.errors import UsageError
from taskflow.nodes.catalogue import Catalogue
from taskflow.service.accounts import Caller
from taskflow.settings import Settings
from taskflow.words import command_line

_TITLE_MAX = 200


def check_spec(spec: Mapping[str, Any], settings: Settings) -> None:
    """Raise ``UsageError`` for what this installation never does."""
    _check_repository(spec["repository"], settings)
    limit_s = spec.get("time_limit_s")
    if limit_s is not None and not 0 < limit_s <= settings.execution_ceiling_s:
        raise UsageError(
            f"the time limit must be between 0 and {settings.execution_ceiling_s:g} s",
            fields={"time_limit_s": "out of range"},
        )
    both = set(spec.get("env") or {}) & set(spec.get("secrets") or {})
    if both:
        raise UsageError("a name can't be both env and secret", fields={"secrets": f"also in env: {sorted(both)}"})


def _check_repository(repository: str, settings: Settings) -> None:
    """Where a node may be sent to fetch from; the node looks again, at what the name resolves to."""
    host = repository_host(repository)
    if host is None:
        if not settings.repository_local_paths:
            raise UsageError(
                "paths on a node are not taken as repositories here", fields={"repository": "must be a URL"},
                advice="the setting is TASKFLOW_REPOSITORY_LOCAL_PATHS",
            )  # fmt: skip
        return
    try:
        check_host(host, private=settings.repository_private_hosts)
    except AddressRefused as error:
        raise UsageError(f"the repository's host {error}", fields={"repository": f"its host {error}"}) from None


def check_provider(database: Database, catalogue: Catalogue, caller: Caller, spec: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for a provider that is not in the catalogue, and of which the caller has no node either."""
    name = (spec.get("resources") or {}).get("provider")
    if name is None or catalogue.spec(name) is not None:
        return
    with database.read() as tx:
        if has_node_of(tx, caller.owner_id, name):
            return
    raise UsageError(
        catalogue.has_no(name), fields={"resources.provider": f"one of {', '.join(catalogue.names)}"},
        advice="taskflow providers lists what there is",
    )  # fmt: skip


def title_of(command: Sequence[str]) -> str:
    """What a task without a title is called: its command as one would type it, of a shell what that was given."""
    return " ".join(command_line(command).split())[:_TITLE_MAX]
