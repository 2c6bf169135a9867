"""What can be bought where: the providers of this installation, each with its offers, from one TOML file.

::

    [[provider]]
    name = "hetzner"                # what tasks, nodes and the API call it
    kind = "hetzner"                # local, hetzner or libcloud
    token_env = "HCLOUD_TOKEN"      # or token_file; no credential stands in this file
    image = "debian-12"
    nodes_max = 10                  # servers at once, of all owners
    owner_nodes_max = 5             # servers at once of one owner
    parallel_max = 2                # servers of one owner that are being made at once

    [[provider.offer]]              # the first that fits is taken, the next when it is sold out
    size = "cx32"
    location = "fsn1"
    vcpus = 4
    memory_mb = 8192
    slots = 3                       # workspaces it holds at once
    price_per_hour = 0.0113

    [[provider]]
    name = "lab"
    kind = "ssh"                    # machines that are there already
    user = "taskflow"
    key_file = "/etc/taskflow/id_ed25519"       # without a passphrase
    known_hosts = "/etc/taskflow/known_hosts"   # the hosts' keys are checked, never learned
    directory = "taskflow-nodes"    # on the host, below the user's home unless absolute
    python = "python3"              # the host's Python, 3.10 or newer

    [[provider.host]]               # each is an offer, sold to one node at a time
    address = "10.0.0.2"            # where its node is reached too
    port = 22
    vcpus = 8
    memory_mb = 16000
    slots = 3

Without the file there is one provider, ``local``: a process of this machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from taskflow.db.status import LOCAL_PROVIDER
from taskflow.errors import UsageError
from taskflow.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = (LOCAL_PROVIDER, "hetzner", "libcloud", "ssh")
_NAME = validate.Regexp(r"^[a-z][a-z0-9-]{0,31}\Z", error="small letters, digits and '-', at most 32")
_COUNT = validate.Range(min=1, max=100_000)
_SSH_PORT = 22
_NODES_MAX = 10


@dataclass(frozen=True)
class Offer:
    """One kind of server that a provider sells. ``size`` and ``location`` are the provider's words."""

    provider: str
    size: str
    location: str
    vcpus: float
    memory_mb: int
    slots: int
    price_per_hour: float = 0.0

    @property
    def key(self) -> str:
        """How its rest after a sell-out is remembered."""
        return f"{self.size}@{self.location}"

    @property
    def said(self) -> str:
        """What it is called to people: an offer that has neither size nor place is all that its provider has."""
        return f"{self.provider} {self.key}" if self.size or self.location else self.provider


@dataclass(frozen=True)
class ProviderSpec:
    """A provider as it is configured. ``offers`` in order of preference; ``options`` is for its own file alone."""

    name: str
    kind: str
    offers: tuple[Offer, ...]
    nodes_max: int
    owner_nodes_max: int
    parallel_max: int
    options: Mapping[str, Any]

    @property
    def remote(self) -> bool:
        """Whether its nodes are other machines, reached over a network."""
        return self.kind != LOCAL_PROVIDER

    @property
    def needs_user_data(self) -> bool:
        """Whether its servers are bought, and learn from their user data who they are; others are told."""
        return self.kind in ("hetzner", "libcloud")


@dataclass(frozen=True)
class Catalogue:
    """All providers, in the order of the file: the first is asked first."""

    providers: tuple[ProviderSpec, ...]

    def spec(self, name: str) -> ProviderSpec | None:
        """The provider of this name."""
        return next((spec for spec in self.providers if spec.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        """What the providers are called."""
        return tuple(spec.name for spec in self.providers)

    def has_no(self, name: str) -> str:
        """What is said to whoever names a provider that there is not."""
        return f"no provider {name}; there {'is' if len(self.names) == 1 else 'are'}: {', '.join(self.names)}"


def load_catalogue(settings: Settings) -> Catalogue:
    """The catalogue of ``TASKFLOW_PROVIDERS_FILE``. Raises ``UsageError`` naming the file and each wrong field."""
    named = settings.providers_file
    path = Path(named) if named else settings.data_path / "providers.toml"
    if not named and not path.exists():
        return Catalogue((_local(settings),))
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise UsageError(
            f"{path} can't be read: {error.strerror}", fields={"TASKFLOW_PROVIDERS_FILE": str(path)}
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}", fields={"TASKFLOW_PROVIDERS_FILE": str(path)}) from None
    return parse_catalogue(raw, settings, str(path))


def parse_catalogue(raw: Mapping[str, Any], settings: Settings, source: str) -> Catalogue:
    """The catalogue of a parsed file. Raises ``UsageError``."""
    try:
        found = _FileSchema().load(dict(raw))
    except ValidationError as error:
        messages = error.messages if isinstance(error.messages, dict) else {"_": error.messages}
        raise UsageError(f"{source} is wrong: {messages}", fields=messages) from None
    specs = tuple(_spec(row, settings) for row in found["provider"])
    names = [spec.name for spec in specs]
    if any(spec.remote for spec in specs) and not settings.public_url:
        raise UsageError(
            f"{source} names providers whose nodes have to reach this installation: TASKFLOW_PUBLIC_URL is empty",
            fields={"TASKFLOW_PUBLIC_URL": "must be the address at which nodes of a provider reach the web process"},
        )
    if len(set(names)) != len(names):
        raise UsageError(f"{source} has two providers of one name", fields={"provider": "names must be unique"})
    return Catalogue(specs)


def credential(spec: ProviderSpec) -> str:
    """The provider's credential, from where the file says it is. Raises ``UsageError``."""
    return _secret(spec, "token", spec.options.get("token_env"), spec.options.get("token_file"))


def driver_options(spec: ProviderSpec) -> dict[str, Any]:
    """The further arguments of the driver, secrets from where the file says they are. Raises ``UsageError``."""
    return {
        name: _secret(spec, name, value.get("env"), value.get("file")) if isinstance(value, dict) else value
        for name, value in spec.options.get("options", {}).items()
    }


def _secret(spec: ProviderSpec, what: str, variable: str | None, path: str | None) -> str:
    found = os.environ.get(variable, "") if variable else ""
    if path:
        try:
            found = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UsageError(f"the {what} of provider {spec.name}: {path} can't be read: {error.strerror}") from None
    if not found:
        raise UsageError(f"provider {spec.name} has no {what}: {variable or path} is empty", code="provider_token")
    return found


class _OfferSchema(Schema):
    size = fields.String(required=True, validate=validate.Length(min=1, max=64))
    location = fields.String(load_default="", validate=validate.Length(max=64))
    vcpus = fields.Float(required=True, validate=validate.Range(min=0.1, max=4096))
    memory_mb = fields.Integer(required=True, strict=True, validate=validate.Range(min=64, max=100_000_000))
    slots = fields.Integer(load_default=1, strict=True, validate=_COUNT)
    price_per_hour = fields.Float(load_default=0.0, validate=validate.Range(min=0.0, max=1e6))


class _HostSchema(Schema):
    address = fields.String(
        required=True,
        validate=[
            validate.Length(max=56),
            validate.Regexp(r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z|^[0-9a-fA-F:]+\Z", error="a host's name or its IP address"),
        ],
    )
    port = fields.Integer(load_default=_SSH_PORT, strict=True, validate=validate.Range(min=1, max=65535))
    location = fields.String(load_default="", validate=validate.Length(max=64))
    vcpus = fields.Float(required=True, validate=validate.Range(min=0.1, max=4096))
    memory_mb = fields.Integer(required=True, strict=True, validate=validate.Range(min=64, max=100_000_000))
    slots = fields.Integer(load_default=1, strict=True, validate=_COUNT)
    price_per_hour = fields.Float(load_default=0.0, validate=validate.Range(min=0.0, max=1e6))


#: Options of drivers that are credentials.
_SECRET_OPTIONS = frozenset({"secret", "password", "token", "ex_consumer_key", "ex_force_auth_token"})


def _of_driver(options: Mapping[str, Any]) -> None:
    """A table is where a secret is; a secret that stands there itself is in every backup of the file."""
    for name, value in options.items():
        if name not in _SECRET_OPTIONS and not isinstance(value, dict):
            continue
        named = isinstance(value, dict) and len(value) == 1 and value.keys() <= {"env", "file"}
        if not named or not all(isinstance(one, str) and one for one in value.values()):
            raise ValidationError(f'{name}: {{env = "NAME"}} or {{file = "/path"}} says where it is')


_OF_MACHINES = ("isolate", "container_image")  # how the agent of a node on another machine holds its workspaces


class _ProviderSchema(Schema):
    name = fields.String(required=True, validate=_NAME)
    kind = fields.String(required=True, validate=validate.OneOf(KINDS))
    offer = fields.List(fields.Nested(_OfferSchema), load_default=list)
    host = fields.List(fields.Nested(_HostSchema), load_default=list)
    nodes_max = fields.Integer(strict=True, validate=_COUNT)
    owner_nodes_max = fields.Integer(strict=True, validate=_COUNT)
    parallel_max = fields.Integer(load_default=2, strict=True, validate=_COUNT)
    token_env = fields.String(validate=validate.Length(min=1))
    token_file = fields.String(validate=validate.Length(min=1))
    image = fields.String(validate=validate.Length(min=1))
    api_url = fields.Url(require_tld=False)
    driver = fields.String(validate=validate.Regexp(r"^[a-z0-9_]+\Z"))
    options = fields.Dict(keys=fields.String(), validate=_of_driver)
    user = fields.String(validate=validate.Regexp(r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\Z", error="no name of a user"))
    key_file = fields.String(validate=validate.Length(min=1))
    known_hosts = fields.String(validate=validate.Length(min=1))
    directory = fields.String(
        validate=validate.Regexp(
            r"^(?!.*(^|/)\.\.?(/|\Z))/?[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*\Z",
            error="letters, digits, '.', '_' and '-' between slashes, and no '..'",
        )
    )
    python = fields.String(
        validate=validate.Regexp(r"^[A-Za-z0-9._/+][A-Za-z0-9._/+-]*\Z", error="no name of a program")
    )
    isolate = fields.Boolean(truthy={True}, falsy={False})
    container_image = fields.String(validate=validate.Regexp(r"^[a-z0-9][A-Za-z0-9._/:@-]*\Z"))

    @validates_schema
    def _complete(self, data: dict[str, Any], **_: Any) -> None:
        kind, missing = data.get("kind"), {}
        if kind in ("hetzner", "libcloud"):
            if ("token_env" in data) == ("token_file" in data):
                missing["token_env"] = ["one of token_env and token_file is needed"]
            missing |= {name: ["is needed"] for name in ("image",) if name not in data}
            if not data.get("offer"):
                missing["offer"] = ["at least one is needed"]
        if kind == "libcloud" and "driver" not in data:
            missing["driver"] = ["is needed: the cloud's name in Apache Libcloud"]
        if kind == LOCAL_PROVIDER:
            missing |= {name: ["is for nodes on other machines"] for name in _OF_MACHINES if name in data}
        if "container_image" in data and data.get("isolate") is False:
            missing["container_image"] = ["needs isolate: a container runs as its workspace's user"]
        if kind == LOCAL_PROVIDER and data.get("name") != LOCAL_PROVIDER:
            missing["name"] = ["the local provider is called local"]
        if kind == "ssh":
            missing |= _wrong_of_ssh(data)
        elif data.get("host"):
            missing["host"] = ["only the kind ssh has hosts"]
        if missing:
            raise ValidationError(missing)


def _wrong_of_ssh(data: Mapping[str, Any]) -> dict[str, list[str]]:
    wrong = {name: ["is needed"] for name in ("user", "key_file", "known_hosts") if name not in data}
    sizes = [_size(host) for host in data.get("host", ()) if "address" in host]
    if not data.get("host"):
        wrong["host"] = ["at least one is needed"]
    elif len(set(sizes)) != len(sizes):
        wrong["host"] = ["one of them is there twice"]
    if data.get("offer"):
        wrong["offer"] = ["the hosts are what it offers"]
    return wrong


class _FileSchema(Schema):
    provider = fields.List(fields.Nested(_ProviderSchema), required=True, validate=validate.Length(min=1))


def _spec(row: Mapping[str, Any], settings: Settings) -> ProviderSpec:
    name, kind = row["name"], row["kind"]
    if kind == LOCAL_PROVIDER:
        return _local(settings)
    sold = [{**host, "size": _size(host)} for host in row["host"]] or row["offer"]
    offers = tuple(
        Offer(name, one["size"], one["location"], one["vcpus"], one["memory_mb"], one["slots"], one["price_per_hour"])
        for one in sold
    )
    common = ("name", "kind", "offer", "nodes_max", "owner_nodes_max", "parallel_max")
    nodes_max = row.get("nodes_max", len(row["host"]) or _NODES_MAX)
    return ProviderSpec(
        name=name, kind=kind, offers=offers, nodes_max=nodes_max,
        owner_nodes_max=row.get("owner_nodes_max", nodes_max), parallel_max=row["parallel_max"],
        options={key: value for key, value in row.items() if key not in common},
    )  # fmt: skip


def _size(host: Mapping[str, Any]) -> str:
    """What a host is called as an offer."""
    address = str(host["address"])
    if host["port"] == _SSH_PORT:
        return address
    return f"[{address}]:{host['port']}" if ":" in address else f"{address}:{host['port']}"


def _local(settings: Settings) -> ProviderSpec:
    """This machine. Its size is what the host says; it costs nothing and is never short of itself."""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    offer = Offer(LOCAL_PROVIDER, "", "", float(os.cpu_count() or 1), memory_mb, settings.node_slots)
    most = max(1, settings.local_nodes_max)
    return ProviderSpec(LOCAL_PROVIDER, LOCAL_PROVIDER, (offer,), 0, most, most, {})
