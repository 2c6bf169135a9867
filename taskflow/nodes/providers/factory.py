"""Makes the providers of a catalogue. A client library is imported only where its provider is configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from taskflow.clock import Clock
from taskflow.db.status import LOCAL_PROVIDER
from taskflow.errors import InfrastructureError, StepError, UsageError
from taskflow.nodes.catalogue import Catalogue, ProviderSpec, credential, driver_options
from taskflow.nodes.providers.base import Provider
from taskflow.nodes.providers.local import LocalProvider


def _no_agent_file() -> Path:
    raise InfrastructureError("nobody said where the agent's file is", code="agent_file")


@dataclass(frozen=True)
class Reach:
    """``agent_file`` makes the agent's file, or says where it is; the other two are how an agent reaches the control plane
    and what it checks it by (a file with CA certificates, empty for its system's)."""

    agent_file: Callable[[], Path] = _no_agent_file
    control_plane_url: str = ""
    ca_file: str = ""


class ProviderShelf(Mapping[str, Provider]):
    """The providers of a catalogue, by name, each made when it is asked for first: a process that never buys needs no
    credential. ``installation`` is asked when a provider needs it. ``reach``: what agents that a provider starts itself are
    and have to know.

    Looking one up raises ``UsageError`` for a missing token or file, ``InfrastructureError`` for a missing library.
    """

    def __init__(
        self, catalogue: Catalogue, *, data_path: Path, installation: Callable[[], str], clock: Clock, timeout_s: float,
        reach: Reach | None = None,
    ) -> None:  # fmt: skip
        self._specs = {spec.name: spec for spec in catalogue.providers}
        self._make = partial(_make, data_path=data_path, installation=installation, clock=clock, timeout_s=timeout_s)
        self._of_hosts = partial(
            _of_hosts, installation=installation, clock=clock, timeout_s=timeout_s, reach=reach or Reach()
        )
        self._made: dict[str, Provider] = {}

    def __getitem__(self, name: str) -> Provider:
        if name not in self._made:
            spec = self._specs[name]
            self._made[name] = self._of_hosts(spec) if spec.kind == "ssh" else self._make(spec)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def label_prefix(installation: str) -> str:
    """How the labels of this installation's nodes begin: short enough for a host name, and nobody else's."""
    return f"tf-{installation}-"


def _make(
    spec: ProviderSpec, *, data_path: Path, installation: Callable[[], str], clock: Clock, timeout_s: float
) -> Provider:
    if spec.kind == LOCAL_PROVIDER:
        return LocalProvider(data_path)
    options, token = dict(spec.options), credential(spec)
    try:
        if spec.kind == "hetzner":
            from taskflow.nodes.providers.hetzner import API_URL, HetznerProvider

            return HetznerProvider(
                spec.name, token=token, image=options["image"], installation=installation, clock=clock,
                timeout_s=timeout_s, api_url=options.get("api_url", API_URL),
            )  # fmt: skip
        from taskflow.nodes.providers.cloud import LibcloudProvider

        return LibcloudProvider(
            spec.name, driver=options["driver"], key=token, image=options["image"],
            prefix=lambda: label_prefix(installation()), timeout_s=timeout_s, options=driver_options(spec),
        )  # fmt: skip
    except ImportError as error:
        raise _no_library(spec, error) from error


def _of_hosts(
    spec: ProviderSpec, *, installation: Callable[[], str], clock: Clock, timeout_s: float, reach: Reach
) -> Provider:
    """The provider of machines that are there already. A key that can't be used is said now, not at the first node."""
    try:
        from taskflow.nodes.providers.ssh import SshProvider
        from taskflow.nodes.providers.ssh_link import Account, Host, credentials
    except ImportError as error:
        raise _no_library(spec, error) from error
    options = spec.options
    account = Account(
        user=options["user"], key_file=options["key_file"], known_hosts=options["known_hosts"],
        directory=options.get("directory", "taskflow-nodes"), python=options.get("python", "python3"),
    )  # fmt: skip
    hosts = [Host(host["address"], host["port"]) for host in options["host"]]
    try:
        credentials(account)
        ca = Path(reach.ca_file).read_text(encoding="ascii") if reach.ca_file else ""
    except StepError as error:
        raise UsageError(f"provider {spec.name}: {error.message}", advice=error.advice, code="provider_key") from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"TASKFLOW_PUBLIC_CA_FILE={reach.ca_file!r} can't be read: {error}",
            fields={"TASKFLOW_PUBLIC_CA_FILE": "can't be read"},
        ) from None
    return SshProvider(
        spec.name, account=account, hosts=dict(zip((offer.size for offer in spec.offers), hosts, strict=True)),
        prefix=lambda: label_prefix(installation()), agent_file=reach.agent_file,
        control_plane_url=reach.control_plane_url, ca=ca, isolate=options.get("isolate", True), clock=clock,
        timeout_s=timeout_s,
    )  # fmt: skip


def _no_library(spec: ProviderSpec, error: ImportError) -> InfrastructureError:
    extra = {"hetzner": "hetzner", "libcloud": "clouds", "ssh": "ssh"}[spec.kind]
    return InfrastructureError(
        f"provider {spec.name} needs a library that is not installed: {error.name}", code="provider_library",
        advice=f"pip install 'taskflow-engine[{extra}]'",
    )  # fmt: skip
