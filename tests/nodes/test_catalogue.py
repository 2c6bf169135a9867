"""The catalogue file: what it gives, and what each mistake in it is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from taskflow.clock import ManualClock
from taskflow.errors import UsageError
from taskflow.nodes.catalogue import credential, driver_options, load_catalogue, parse_catalogue
from taskflow.nodes.providers.base import Provider
from taskflow.nodes.providers.factory import ProviderShelf, Reach
from taskflow.settings import Settings
from tests.support.sshd import make_key

PUBLIC = dataclasses.replace(Settings(), public_url="https://control.example")
OFFER = {"size": "cx32", "location": "fsn1", "vcpus": 4, "memory_mb": 8192, "slots": 3, "price_per_hour": 0.01}
HOST = {"address": "10.0.0.2", "vcpus": 8, "memory_mb": 16000, "slots": 3}
SSH = {
    "name": "lab", "kind": "ssh", "user": "taskflow", "key_file": "/etc/taskflow/id_ed25519",
    "known_hosts": "/etc/taskflow/known_hosts", "host": [HOST],
}  # fmt: skip
HETZNER = {"name": "hz", "kind": "hetzner", "token_env": "HZ_TOKEN", "image": "debian-12", "offer": [OFFER]}


def test_without_a_file_there_is_this_machine(tmp_path: Path) -> None:
    """And the two settings that say how much of it."""
    settings = dataclasses.replace(Settings(), data_dir=str(tmp_path), node_slots=7, local_nodes_max=2)
    (spec,) = load_catalogue(settings).providers
    assert (spec.name, spec.owner_nodes_max, spec.nodes_max, spec.offers[0].slots) == ("local", 2, 0, 7)


def test_a_file_in_the_data_directory_is_found(tmp_path: Path) -> None:
    """Or the one that the setting names."""
    text = '[[provider]]\nname = "local"\nkind = "local"\n'
    (tmp_path / "providers.toml").write_text(text)
    assert len(load_catalogue(dataclasses.replace(Settings(), data_dir=str(tmp_path))).providers) == 1
    missing = dataclasses.replace(Settings(), providers_file=str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="can't be read"):
        load_catalogue(missing)
    (tmp_path / "bad.toml").write_text("[[provider]\n")
    with pytest.raises(UsageError, match="is not TOML"):
        load_catalogue(dataclasses.replace(Settings(), providers_file=str(tmp_path / "bad.toml")))


def test_offers_keep_their_order_and_defaults_are_filled_in() -> None:
    """The first that fits is bought."""
    second = {**OFFER, "location": "nbg1"}
    (spec,) = parse_catalogue({"provider": [{**HETZNER, "offer": [OFFER, second]}]}, PUBLIC, "f").providers
    assert [offer.key for offer in spec.offers] == ["cx32@fsn1", "cx32@nbg1"]
    assert (spec.nodes_max, spec.owner_nodes_max, spec.parallel_max) == (10, 10, 2)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Not A Name"}, "name"),
        ({"container_image": "--privileged"}, "container_image"),
        ({"container_image": "debian:12", "isolate": False}, "container_image"),
        ({"isolate": "no"}, "isolate"),
        ({"kind": "azure"}, "kind"),
        ({"token_env": None}, "token_env"),
        ({"token_file": "/x"}, "token_env"),
        ({"image": None}, "image"),
        ({"offer": []}, "offer"),
        ({"offer": [{**OFFER, "vcpus": 0}]}, "vcpus"),
        ({"offer": [{**OFFER, "slots": 1.5}]}, "slots"),
        ({"offer": [{"size": "cx32"}]}, "memory_mb"),
        ({"kind": "libcloud"}, "driver"),
        ({"kind": "local"}, "name"),
        ({"nodes_max": 0}, "nodes_max"),
        ({"colour": "red"}, "colour"),
        ({"api_url": "nowhere"}, "api_url"),
        ({"host": [HOST]}, "host"),
    ],
)
def test_a_mistake_is_told_with_the_name_of_its_field(change: dict[str, Any], field: str) -> None:
    """At the start of every process, before anything is bought."""
    row = {name: value for name, value in {**HETZNER, **change}.items() if value is not None}
    with pytest.raises(UsageError) as wrong:
        parse_catalogue({"provider": [row]}, PUBLIC, "/etc/providers.toml")
    assert field in str(wrong.value.fields)
    assert wrong.value.message.startswith("/etc/providers.toml")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user": None}, "user"),
        ({"user": "x; reboot"}, "user"),
        ({"key_file": None}, "key_file"),
        ({"known_hosts": None}, "known_hosts"),
        ({"host": []}, "host"),
        ({"host": [HOST, {**HOST, "port": 22}]}, "host"),
        ({"host": [{**HOST, "address": "-oProxyCommand=x"}]}, "address"),
        ({"host": [{**HOST, "address": "a b"}]}, "address"),
        ({"host": [{"vcpus": 1, "memory_mb": 100}]}, "address"),
        ({"host": [{**HOST, "port": 0}]}, "port"),
        ({"host": [{**HOST, "vcpus": None}]}, "vcpus"),
        ({"host": [{**HOST, "colour": "red"}]}, "colour"),
        ({"offer": [OFFER]}, "offer"),
        ({"directory": "../elsewhere"}, "directory"),
        ({"directory": "/srv/x/.."}, "directory"),
        ({"directory": "a'b"}, "directory"),
        ({"directory": ""}, "directory"),
        ({"python": "python3 -m x"}, "python"),
        ({"python": "-x"}, "python"),
    ],
)
def test_a_mistake_about_hosts_is_told_with_the_name_of_its_field(change: dict[str, Any], field: str) -> None:
    """What becomes part of a command, or of a path on a host, is nothing else than what it should be."""
    row = {name: value for name, value in {**SSH, **change}.items() if value is not None}
    with pytest.raises(UsageError) as wrong:
        parse_catalogue({"provider": [row]}, PUBLIC, "/etc/providers.toml")
    assert field in str(wrong.value.fields)


def test_each_host_is_an_offer_and_there_are_as_many_nodes_as_hosts() -> None:
    """Named by where it is; a limit of the file's own counts first."""
    rows = [HOST, {**HOST, "port": 2222, "location": "cellar"}, {**HOST, "address": "fd00::1", "port": 2222}]
    (spec,) = parse_catalogue({"provider": [{**SSH, "host": rows}]}, PUBLIC, "f").providers
    assert [offer.key for offer in spec.offers] == ["10.0.0.2@", "10.0.0.2:2222@cellar", "[fd00::1]:2222@"]
    assert (spec.nodes_max, spec.owner_nodes_max, spec.remote, spec.needs_user_data) == (3, 3, True, False)
    (spec,) = parse_catalogue({"provider": [{**SSH, "host": rows, "nodes_max": 2}]}, PUBLIC, "f").providers
    assert (spec.nodes_max, spec.owner_nodes_max) == (2, 2)


@pytest.mark.parametrize("directory", ["taskflow-nodes", "/srv/taskflow", "a/b.c", ".taskflow", "..a"])
def test_a_directory_of_hosts_may_be_anywhere(directory: str) -> None:
    """Below the user's home or not."""
    (spec,) = parse_catalogue({"provider": [{**SSH, "directory": directory}]}, PUBLIC, "f").providers
    assert spec.options["directory"] == directory


def test_two_providers_of_one_name_are_refused() -> None:
    """Tasks and nodes name them."""
    with pytest.raises(UsageError, match="two providers of one name"):
        parse_catalogue({"provider": [HETZNER, HETZNER]}, PUBLIC, "f")


def test_servers_that_are_bought_need_an_address_to_report_to() -> None:
    """A loopback default would be paid for and never heard of."""
    for row in (HETZNER, SSH):
        with pytest.raises(UsageError, match="TASKFLOW_PUBLIC_URL"):
            parse_catalogue({"provider": [row]}, Settings(), "f")


def test_the_credential_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never from the catalogue itself; a missing one is named."""
    (spec,) = parse_catalogue({"provider": [HETZNER]}, PUBLIC, "f").providers
    with pytest.raises(UsageError, match="HZ_TOKEN is empty"):
        credential(spec)
    monkeypatch.setenv("HZ_TOKEN", "s3cret")
    assert credential(spec) == "s3cret"
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    row = {name: value for name, value in HETZNER.items() if name != "token_env"} | {"token_file": str(file)}
    (spec,) = parse_catalogue({"provider": [row]}, PUBLIC, "f").providers
    assert credential(spec) == "from-a-file"


def test_a_provider_of_each_kind_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked anything for it, the database neither."""
    monkeypatch.setenv("HZ_TOKEN", "s3cret")
    rows = [
        {"name": "local", "kind": "local"}, HETZNER,
        {**HETZNER, "name": "ocean", "kind": "libcloud", "driver": "digitalocean"},
        {**SSH, "key_file": str(make_key(tmp_path / "key")), "known_hosts": str(tmp_path / "known_hosts")},
    ]  # fmt: skip
    (tmp_path / "known_hosts").touch()
    catalogue = parse_catalogue({"provider": rows}, PUBLIC, "f")

    def installation() -> str:
        raise AssertionError("asked too early")

    made = ProviderShelf(catalogue, data_path=tmp_path, installation=installation, clock=ManualClock(), timeout_s=1.0)
    assert [type(one).__name__ for one in made.values()] == [
        "LocalProvider", "HetznerProvider", "LibcloudProvider", "SshProvider",
    ]  # fmt: skip
    assert [(one.creates_once, one.told_at_once) for one in made.values()] == [
        (True, True), (True, False), (False, False), (True, True),
    ]  # fmt: skip


LIBCLOUD = {**HETZNER, "name": "ocean", "kind": "libcloud", "driver": "digitalocean"}


def _libcloud(tmp_path: Path, **change: Any) -> Provider:
    catalogue = parse_catalogue({"provider": [{**LIBCLOUD, **change}]}, PUBLIC, "f")
    return ProviderShelf(
        catalogue, data_path=tmp_path, installation=lambda: "i", clock=ManualClock(), timeout_s=1.0
    )["ocean"]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"driver": "nonesuch"}, "no driver nonesuch"),
        ({"driver": "hpcloud"}, "no driver hpcloud"),
        ({"driver": "vultr", "options": {"api_version": "3"}}, "can't be made with its options"),
        ({"driver": "openstack"}, "sells nothing by size and place"),
        ({"driver": "gce"}, "takes no user data"),
        ({"driver": "scaleway"}, "takes no user data"),
        ({"driver": "equinixmetal"}, "timeout"),
        ({"driver": "eucalyptus"}, "timeout"),
        ({"driver": "ovh"}, "secret"),
    ],
)
def test_a_cloud_whose_servers_could_not_be_told_who_they_are_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    """By what its driver takes, and nobody is asked for it: not a quarter of an hour into the first order."""
    monkeypatch.setenv("HZ_TOKEN", "s3cret")
    with pytest.raises(UsageError, match=said) as refused:
        _libcloud(tmp_path, **change)
    assert "provider ocean" in refused.value.message and "s3cret" not in str(refused.value.as_dict())


_UNTRIED = ("brightbox", "cloudstack", "ec2", "exoscale", "ikoula", "linode")


@pytest.mark.parametrize("driver", ["digitalocean", "vultr", *_UNTRIED])
def test_a_cloud_whose_driver_takes_user_data_can_be_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """Those that the documentation names."""
    monkeypatch.setenv("HZ_TOKEN", "s3cret")
    assert _libcloud(tmp_path, driver=driver).name == "ocean"
    said = (Path(__file__).parents[2] / "docs/how-to/providers.md").read_text(encoding="utf-8")
    assert f"`{driver}`" in said


def test_a_second_credential_comes_from_the_environment_or_a_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clouds that want a key and a secret; what is no secret stands in the file."""
    (tmp_path / "secret").write_text("from-a-file\n")
    options = {
        "secret": {"env": "EC2_SECRET"}, "token": {"file": str(tmp_path / "secret")}, "region": "eu-central-1",
        "secure": True,
    }  # fmt: skip
    (spec,) = parse_catalogue({"provider": [{**LIBCLOUD, "driver": "ec2", "options": options}]}, PUBLIC, "f").providers
    with pytest.raises(UsageError, match="EC2_SECRET is empty"):
        driver_options(spec)
    monkeypatch.setenv("EC2_SECRET", "s3cret")
    assert driver_options(spec) == {
        "secret": "s3cret", "token": "from-a-file", "region": "eu-central-1", "secure": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{"secret": "plain"}, {"password": "plain"}, {"secret": {"env": "A", "file": "B"}}, {"secret": {"env": 1}}],
)
def test_a_second_credential_never_stands_in_the_catalogue(options: dict[str, Any]) -> None:
    """It is refused there, and not repeated in what is said."""
    with pytest.raises(UsageError, match="env") as refused:
        parse_catalogue({"provider": [{**LIBCLOUD, "options": options}]}, PUBLIC, "f")
    assert "plain" not in str(refused.value.as_dict())


def test_a_process_that_buys_nothing_needs_no_credential(tmp_path: Path) -> None:
    """The web process lists offers without one; who asks for the provider itself is told what is missing."""
    catalogue = parse_catalogue({"provider": [HETZNER]}, PUBLIC, "f")
    shelf = ProviderShelf(catalogue, data_path=tmp_path, installation=lambda: "i", clock=ManualClock(), timeout_s=1.0)
    with pytest.raises(UsageError, match="HZ_TOKEN"):
        shelf["hz"]


def test_a_key_that_cannot_be_used_is_told_when_a_worker_starts(tmp_path: Path) -> None:
    """Not at the first node; and the file with it that says which hosts are known, and the CA that agents are given."""
    key = make_key(tmp_path / "key")
    known = tmp_path / "known_hosts"
    known.touch()

    def shelf(ca_file: str = "", **change: Any) -> ProviderShelf:
        row = {**SSH, "key_file": str(key), "known_hosts": str(known), **change}
        catalogue = parse_catalogue({"provider": [row]}, PUBLIC, "f")
        return ProviderShelf(
            catalogue, data_path=tmp_path, installation=lambda: "i", clock=ManualClock(), timeout_s=1.0,
            reach=Reach(ca_file=ca_file),
        )  # fmt: skip

    assert shelf()["lab"].name == "lab"
    for change, said in (
        ({"key_file": str(tmp_path / "none")}, "key file"),
        ({"key_file": str(make_key(tmp_path / "locked", passphrase="only-for-tests"))}, "key file"),
        ({"known_hosts": str(tmp_path / "none")}, "known_hosts file"),
        ({"ca_file": str(tmp_path / "none")}, "TASKFLOW_PUBLIC_CA_FILE"),
    ):
        with pytest.raises(UsageError, match=said):
            shelf(**change)["lab"]
