"""The first start on a bought server: fetching the node's order with the one token that came with the server.

``FILE`` (JSON, mode 0600) holds control_plane_url, node_id, token, ca_file where one is needed, and power_off where the
machine is there for this node alone: one that the control plane wants no more is shut down. The control plane
gives the order to the first claim that asks, and to that claim again: the claim is on the disk before it is used, so an
answer that was lost is asked for again, and a copy of the server gets nothing. Once the order is on the disk the token
is removed from ``FILE``. Each step can be repeated, so a crash between any two of them costs a restart.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

from taskflow import protocol
from taskflow.agent.clock import PlaneClock
from taskflow.agent.places import read_json, write_json
from taskflow.agent.problems import StartRefused, Unwanted
from taskflow.agent.wire import Answer, Wire, wait_s

log = logging.getLogger(__name__)

_MEANINGS = {
    401: "the bootstrap token is not valid, or was used up: order a new node",
    403: "the bootstrap token is not valid for this node: order a new node",
    404: "the control plane has no such node: destroy this server",
    409: "another server has claimed this node: destroy this one",
    410: "the node is gone: destroy this server",
}
#: By these the control plane says for good that it has no use for this server.
_UNWANTED = frozenset((404, 409, 410))


@dataclass(frozen=True)
class Contact:
    """How the control plane is reached."""

    control_plane_url: str
    ca_file: str | None


def fetch_order(root: Path, file: Path, *, wait: Callable[[float], None] = time.sleep) -> Contact:
    """See to it that ``root`` holds the node's order; how the control plane is reached.

    Tries until it is answered. Raises ``StartRefused`` for a file that can't be used and for an answer that is final, as
    ``Unwanted`` where the file says that the machine is to be shut down then.
    """
    said = _read(file)
    contact = Contact(said["control_plane_url"], said.get("ca_file"))
    if not root.is_dir():
        raise StartRefused(f"there is no directory {root}; make it, mode 0700")
    if not (root / "order.json").exists():
        if "token" not in said:
            raise StartRefused(f"{root} holds no order, and the token in {file} was used: order a new node")
        wire = Wire(contact.control_plane_url, PlaneClock(), contact.ca_file)
        try:
            order = _ask(wire, said["node_id"], said["token"], _claim(root), wait)
        except Unwanted as refused:
            if said.get("power_off"):
                raise
            raise StartRefused(str(refused)) from None
        write_json(root / "order.json", order)
        log.info("node %s has its order", said["node_id"])
    if "token" in said:
        write_json(file, {name: value for name, value in said.items() if name != "token"})
    (root / "claim.json").unlink(missing_ok=True)
    return contact


def _read(file: Path) -> dict[str, Any]:
    said = read_json(file)
    if said is None:
        raise StartRefused(f"{file} is not there, or is no JSON object")
    for name in ("control_plane_url", "node_id"):
        if not isinstance(said.get(name), str) or not said[name]:
            raise StartRefused(f"{file} lacks {name}")
    for name in ("token", "ca_file"):
        if said.get(name) is None:
            said.pop(name, None)
        elif not isinstance(said[name], str):
            raise StartRefused(f"{file}: {name} is not a text")
    if not isinstance(said.get("power_off", False), bool):
        raise StartRefused(f"{file}: power_off is not true or false")
    return said


def _claim(root: Path) -> str:
    """This server's claim: random, and the same each time."""
    kept = read_json(root / "claim.json")
    if kept is not None:
        return str(kept["claim"])
    claim = secrets.token_urlsafe(32)
    write_json(root / "claim.json", {"claim": claim})
    return claim


def _ask(wire: Wire, node_id: str, token: str, claim: str, wait: Callable[[float], None]) -> dict[str, Any]:
    stage = protocol.route(protocol.CALLBACK_NODE_BOOT, node_id=node_id, stage=protocol.BOOT_STAGES[-1])
    wire.introduce(stage, token, {})  # whoever waits for the server sees how far it is; nothing depends on it
    path, attempts = protocol.route(protocol.CALLBACK_NODE_BOOTSTRAP, node_id=node_id), 0
    while True:
        answer = wire.introduce(path, token, {"protocol_version": protocol.PROTOCOL_VERSION, "claim": claim})
        if answer.final:
            raise (Unwanted if answer.status in _UNWANTED else StartRefused)(_refusal(node_id, answer))
        if answer.accepted:
            try:
                return _checked(node_id, answer.body)
            except ValidationError as error:  # something on the way answers for the control plane, mostly
                log.error("what came is no order of a node: %s", error.messages)
        wait(wait_s(attempts))
        attempts += 1


def _checked(node_id: str, order: dict[str, Any]) -> dict[str, Any]:
    if protocol.load(protocol.NodeOrderSchema, order)["node_id"] != node_id:
        raise ValidationError({"node_id": ["is another node's"]})
    return order


def _refusal(node_id: str, answer: Answer) -> str:
    meaning = _MEANINGS.get(answer.status, "it is of another version, maybe: see the agent's and its version")
    return f"the control plane does not give node {node_id} its order ({answer.status} {answer.says}): {meaning}"
