"""Who may come into a host of the user's and what it needs: trouble is told with what to do, and leaves nothing there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from taskflow.nodes.providers.base import (
    AccessRefused,
    OrderInvalid,
)
from tests.support.ssh_lab import PREFIX, Lab
from tests.support.ssh_lab_fixtures import refused
from tests.support.sshd import make_key

LABEL = f"{PREFIX}1"


# --- who may come in, and who may not


def test_a_host_with_another_key_is_not_talked_to(one: Lab) -> None:
    """The message names the host and says how its key is compared; nothing is learned by itself."""
    one.servers[0].stop()
    one.servers[0].new_host_key()
    one.servers[0].start()
    before = one.known_hosts.read_bytes()
    error = refused(lambda: one.provider().create(one.order()), AccessRefused)
    assert one.servers[0].name in error.message
    assert error.advice is not None
    assert f"ssh-keyscan -p {one.servers[0].port} 127.0.0.1" in error.advice
    refused(lambda: one.provider().find_by_label(LABEL), AccessRefused)
    refused(lambda: one.provider().destroy(LABEL), AccessRefused)
    assert one.known_hosts.read_bytes() == before and one.servers[0].argv == ""
    one.know()
    assert one.provider().create(one.order()).state == "running"


def test_an_unknown_host_is_a_host_with_another_key(one: Lab) -> None:
    """And so is one in a file that is not there."""
    one.known_hosts.write_text("")
    assert one.servers[0].name in refused(one.provider().check, AccessRefused).message
    one.known_hosts.unlink()
    assert "known_hosts" in refused(one.provider().check, AccessRefused).message


def test_a_key_that_is_not_let_in_is_told_with_what_to_do(one: Lab, tmp_path: Path) -> None:
    """As are a key with a passphrase, one that is not there, and what is no key."""
    strange = make_key(tmp_path / "strange")
    error = refused(one.provider(key_file=str(strange)).check, AccessRefused)
    assert error.advice is not None and "authorized_keys" in error.advice
    locked = make_key(tmp_path / "locked", passphrase="only-for-tests")
    (tmp_path / "empty").touch()
    for file in (locked, tmp_path / "none", tmp_path / "empty"):
        error = refused(one.provider(key_file=str(file)).check, AccessRefused)
        assert str(file) in error.message
        assert error.advice is not None and "without a passphrase" in error.advice


def test_the_environments_keys_and_settings_take_no_part(one: Lab, tmp_path: Path, monkeypatch: Any) -> None:
    """Neither a key agent nor a file of the worker's user opens a host that the catalogue's key does not."""
    home = tmp_path / "home" / ".ssh"
    home.mkdir(parents=True)
    (home / "id_ed25519").write_bytes(one.key.read_bytes())
    (home / "config").write_text("Host *\n  StrictHostKeyChecking no\n  IdentityFile ~/.ssh/id_ed25519\n")
    monkeypatch.setenv("HOME", str(home.parent))
    refused(one.provider(key_file=str(make_key(tmp_path / "strange"))).check, AccessRefused)


# --- what a host needs


def _without_python(made: Lab, path: str) -> None:
    made.servers[0].stop()
    made.servers[0].environment[:] = [f"PATH={path}"]
    made.servers[0].start()


def test_a_host_without_python_is_told_and_has_nothing_of_ours(one: Lab, tmp_path: Path) -> None:
    """Its nodes can't be made, so they need no destroying; where one was made before, nobody knows of its end."""
    _without_python(one, str(tmp_path / "nowhere"))
    error = refused(lambda: one.provider().create(one.order()), OrderInvalid)
    assert "needs Python 3.10 or newer" in error.message
    assert "needs Python 3.10 or newer" in refused(one.provider().check, OrderInvalid).message
    assert one.provider().destroy(LABEL)
    assert list(one.provider().inventory()) == [] and one.standing() == []
    (one.directory() / "claim").mkdir(parents=True)
    with pytest.raises(OrderInvalid):
        one.provider().destroy(LABEL)
    with pytest.raises(OrderInvalid):
        one.provider().inventory()


def test_a_command_that_ended_before_it_was_sent_anything_is_told_by_its_status(
    one: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncssh.SSHClientConnection.create_process

    async def ended(*arguments: Any, **options: Any) -> asyncssh.SSHClientProcess[Any]:
        process = await begun(*arguments, **options)
        await process.wait_closed()
        return process

    monkeypatch.setattr(asyncssh.SSHClientConnection, "create_process", ended)
    _without_python(one, str(tmp_path / "nowhere"))
    assert "needs Python 3.10 or newer" in refused(one.provider().check, OrderInvalid).message
    assert list(one.provider().inventory()) == []


def test_an_older_python_is_refused_by_its_version(one: Lab, tmp_path: Path) -> None:
    """Before anything is made; another one may be named."""
    tools = tmp_path / "tools"
    tools.mkdir()
    old = "import sys; sys.version_info = (3, 8, 1); exec(sys.argv[1])"
    (tools / "python3").write_text(f"#!/bin/sh\nexec /usr/bin/env -i {_real()} -c '{old}' \"$3\"\n")
    (tools / "python3").chmod(0o755)
    _without_python(one, f"{tools}:/usr/bin:/bin")
    error = refused(lambda: one.provider().create(one.order()), OrderInvalid)
    assert "this is 3.8" in error.message
    assert one.standing() == []
    assert one.provider(python=_real()).create(one.order()).state == "running"


def test_a_host_without_git_is_told(one: Lab, tmp_path: Path) -> None:
    """An agent clones with it: better said now than by every task."""
    _without_python(one, str(tmp_path / "nowhere"))
    provider = one.provider(python=_real())
    assert "git is missing" in refused(lambda: provider.create(one.order()), OrderInvalid).message
    assert "git is missing" in refused(provider.check, OrderInvalid).message


def _real() -> str:
    return os.path.realpath("/proc/self/exe")


def test_a_check_says_of_each_host_what_is_wrong(two: Lab) -> None:
    """One refusal does not hide another host's trouble, and nothing is made."""
    two.servers[0].stop()
    two.servers[1].stop()
    two.servers[1].new_host_key()
    two.servers[1].start()
    error = refused(two.provider(timeout_s=5.0).check, AccessRefused)
    assert all(server.name in error.message for server in two.servers)
    assert two.standing(0) == two.standing(1) == []
    assert not two.directory(1).exists()
