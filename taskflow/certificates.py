"""The installation's own CA for node agents. Its key is derived from the installation's secret, so that every process
has it and none is stored; an agent's certificate names its node, not its address, which may change."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from taskflow.errors import UsageError
from taskflow.settings import Settings
from taskflow.vault import Vault

#: The settings that give a certificate; all of them or none.
_GIVEN = ("agent_certificate_file", "agent_key_file", "agent_ca_file", "agent_tls_name")
#: The order of the curve P-256: private keys are numbers below it.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_FROM = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
_UNTIL = dt.datetime(2120, 1, 1, tzinfo=dt.timezone.utc)


@dataclass(frozen=True)
class AgentTls:
    """What an agent shows. Both are PEM texts; the key is secret."""

    certificate: str
    private_key: str


class AgentAuthority:
    """Issues what agents show, and says what the control plane checks it by.

    With ``agent_certificate_file`` in the settings, that certificate is shown by every agent instead.
    """

    def __init__(self, vault: Vault, settings: Settings) -> None:
        """Raises ``UsageError`` when a certificate is given in part."""
        empty = [name for name in _GIVEN if not getattr(settings, name)]
        if 0 < len(empty) < len(_GIVEN):
            missing = {f"TASKFLOW_{name.upper()}": "is needed with the others" for name in empty}
            raise UsageError(
                f"a certificate for agents is given in part: {', '.join(missing)} is empty", fields=missing
            )
        self._vault = vault
        self._settings = settings
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "taskflow agents")])

    def tls_of(self, node_id: str) -> AgentTls:
        """What the agent of this node shows; its key is the same each time. Raises ``UsageError`` for unreadable files."""
        if self._settings.agent_certificate_file:
            return AgentTls(
                _text(self._settings.agent_certificate_file, "agent_certificate_file"),
                _text(self._settings.agent_key_file, "agent_key_file"),
            )
        key = self._key(f"agent:{node_id}")
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id[:64])]), key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(self._own_name(node_id))]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key("ca"), hashes.SHA256())
        )
        return AgentTls(_pem(certificate), _key_pem(key))

    def name_of(self, node_id: str) -> str:
        """The DNS name that the agent's certificate must hold; nobody resolves it."""
        return self._settings.agent_tls_name or self._own_name(node_id)

    def context(self) -> ssl.SSLContext:
        """By which the control plane checks agents: this CA, and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._settings.agent_certificate_file:
            context.load_verify_locations(cadata=_text(self._settings.agent_ca_file, "agent_ca_file"))
        else:
            context.load_verify_locations(cadata=self.ca_certificate())
        return context

    def ca_certificate(self) -> str:
        """The CA's own certificate, PEM."""
        key = self._key("ca")
        certificate = (
            self._builder(self._name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        return _pem(certificate)

    @staticmethod
    def _own_name(node_id: str) -> str:
        return f"{node_id.lower()}.agent.taskflow.internal"

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_FROM)
            .not_valid_after(_UNTIL)
        )

    def _key(self, purpose: str) -> ec.EllipticCurvePrivateKey:
        number = int.from_bytes(self._vault.derive_key(f"tls:{purpose}"), "big") % (_ORDER - 1) + 1
        return ec.derive_private_key(number, ec.SECP256R1())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _text(path: str, setting: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        variable = f"TASKFLOW_{setting.upper()}"
        raise UsageError(f"{variable}={path!r} can't be read: {error}", fields={variable: "can't be read"}) from None
