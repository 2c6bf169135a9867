"""Agents show what only this installation can issue, and the control plane takes nothing else."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from taskflow.certificates import AgentAuthority
from taskflow.errors import UsageError
from taskflow.settings import Settings
from taskflow.vault import Vault

OURS = Vault("a-long-secret-of-this-installation")
SETTINGS = Settings()


def _handshake(tmp_path: Path, shown: AgentAuthority, node_id: str, asked: AgentAuthority, asked_id: str) -> None:
    """Connect as the control plane ``asked`` to an agent that shows what ``shown`` gave it."""
    tls = shown.tls_of(node_id)
    (tmp_path / "cert.pem").write_text(tls.certificate)
    (tmp_path / "key.pem").write_text(tls.private_key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with here, asked.context().wrap_socket(here, server_hostname=asked.name_of(asked_id)):
            pass
    finally:
        thread.join()


def test_every_process_takes_what_any_of_them_issued(tmp_path: Path) -> None:
    """Key and CA are derived: two authorities with the same secret are one."""
    _handshake(
        tmp_path, AgentAuthority(OURS, SETTINGS), "node-1",
        AgentAuthority(Vault("a-long-secret-of-this-installation"), SETTINGS), "node-1",
    )  # fmt: skip


def test_an_agent_cannot_stand_for_another_node(tmp_path: Path) -> None:
    """A certificate names its node."""
    ours = AgentAuthority(OURS, SETTINGS)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(tmp_path, ours, "node-1", ours, "node-2")


def test_what_another_installation_issued_is_refused(tmp_path: Path) -> None:
    """Its CA has the same name and another key."""
    theirs = AgentAuthority(Vault("a-long-secret-of-another-installation"), SETTINGS)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(tmp_path, theirs, "node-1", AgentAuthority(OURS, SETTINGS), "node-1")


def test_an_agents_certificate_issues_no_others(tmp_path: Path) -> None:
    """Who has an agent's key has that agent, and no more: as a CA it counts for nothing."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(AgentAuthority(OURS, SETTINGS).tls_of("node-1").certificate.encode())
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_given_certificates_are_shown_and_checked_instead(tmp_path: Path) -> None:
    """By the name that is in them, whichever node it is; a file that is missing is named."""
    theirs = AgentAuthority(Vault("a-long-secret-of-a-companys-own-ca"), SETTINGS)
    tls = theirs.tls_of("wildcard")
    for name, text in (("c", tls.certificate), ("k", tls.private_key), ("ca", theirs.ca_certificate())):
        (tmp_path / name).write_text(text)
    given = replace(
        SETTINGS, agent_certificate_file=str(tmp_path / "c"), agent_key_file=str(tmp_path / "k"),
        agent_ca_file=str(tmp_path / "ca"), agent_tls_name=theirs.name_of("wildcard"),
    )  # fmt: skip
    authority = AgentAuthority(OURS, given)
    _handshake(tmp_path, authority, "node-1", authority, "node-2")
    with pytest.raises(UsageError) as caught:
        AgentAuthority(OURS, replace(given, agent_tls_name=""))
    assert set(caught.value.fields) == {"TASKFLOW_AGENT_TLS_NAME"}
    with pytest.raises(UsageError) as caught:
        AgentAuthority(OURS, replace(given, agent_key_file=str(tmp_path / "none"))).tls_of("node-1")
    assert "TASKFLOW_AGENT_KEY_FILE" in caught.value.message
