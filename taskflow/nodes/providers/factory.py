"""Makes the providers of a catalogue. A client library is imported only where its provider is configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from taskflow.clock import Clock
from taskflow.db.status import LOCAL_PROVIDER
from taskflow.errors import InfrastructureError
from taskflow.nodes.catalogue import Catalogue, ProviderSpec, credential
from taskflow.nodes.providers.base import Provider
from taskflow.nodes.providers.local import LocalProvider


class ProviderShelf(Mapping[str, Provider]):
    """The providers of a catalogue, by name, each made when it is asked for first: a process that never buys needs no
    credential. ``installation`` is asked when a provider needs it.

    Looking one up raises ``UsageError`` for a missing token, ``InfrastructureError`` for a missing library.
    """

    def __init__(
        self, catalogue: Catalogue, *, data_path: Path, installation: Callable[[], str], clock: Clock, timeout_s: float
    ) -> None:
        self._specs = {spec.name: spec for spec in catalogue.providers}
        self._make = partial(_make, data_path=data_path, installation=installation, clock=clock, timeout_s=timeout_s)
        self._made: dict[str, Provider] = {}

    def __getitem__(self, name: str) -> Provider:
        if name not in self._made:
            self._made[name] = self._make(self._specs[name])
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
            prefix=lambda: label_prefix(installation()), timeout_s=timeout_s, options=options.get("options"),
        )  # fmt: skip
    except ImportError as error:
        extra = {"hetzner": "hetzner", "libcloud": "clouds"}[spec.kind]
        raise InfrastructureError(
            f"provider {spec.name} needs a library that is not installed: {error.name}", code="provider_library",
            advice=f"pip install 'taskflow-engine[{extra}]'",
        ) from error  # fmt: skip
