"""The agent's HTTP server: cheroot, over TLS where the node's order holds a certificate.

Whoever reaches the port may be anybody, so nobody can hold it: there are few threads, a connection gets one only when
it says something, and one that does not say its whole request in time is broken off. So does a TLS handshake, which
happens in the connection's thread and not in the one that accepts.
"""

from __future__ import annotations

import io
import json
import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cheroot.errors import FatalSSLAlert
from cheroot.makefile import StreamReader, StreamWriter
from cheroot.server import HTTPConnection
from cheroot.ssl import Adapter
from cheroot.wsgi import Server

from taskflow.agent.places import Tls, private_directory, write_text
from taskflow.agent.problems import StartRefused

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 4 * 1024 * 1024
_THREADS = 8
_HEADER_BYTES_MAX = 64 * 1024
_QUEUE = 64
_SILENCE_S = 10  # seconds between two bytes of a request, or two requests of a connection
REQUEST_S = 30.0  # for a whole request to arrive, its handshake included
_ANY_HOST = ("", "0.0.0.0", "::")  # noqa: S104

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def listen(host: str, asked: int, earlier: int | None) -> socket.socket:
    """A listening socket on the asked port, else on the earlier one if it is free, else on any.

    Raises ``StartRefused``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in [asked] if asked else [earlier or 0, 0]:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(64)
            return listener
        except OSError as error:
            listener.close()
            if asked or port == 0:
                raise StartRefused(f"cannot listen on {host}:{port}: {error.strerror}") from error
    raise StartRefused(f"cannot listen on {host}")


def advertised_host(listen_host: str, control_plane_url: str) -> str | None:
    """By which host the control plane reaches us: the one we listen on, or the one from which we reach it.

    None while there is no way to it.
    """
    if listen_host not in _ANY_HOST:
        return listen_host
    parts = urlsplit(control_plane_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing: the kernel only chooses the way
            return str(probe.getsockname()[0])
    except OSError:
        return None


def tls_context(tls: Tls, root: Path) -> ssl.SSLContext:
    """What connections are accepted with. The files are kept below ``root``, mode 0600. Raises ``StartRefused``."""
    directory = private_directory(root / "tls")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    write_text(certificate, tls.certificate)
    write_text(key, tls.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise StartRefused(f"the certificate in {root / 'order.json'} can't be used: {error}") from error
    return context


class _Reading(threading.local):
    """The limit of the request that this thread reads."""

    limit: threading.Timer | None = None


_reading = _Reading()


def _says_something(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class _Connection(HTTPConnection):  # type: ignore[misc, unused-ignore]
    greeted = False

    def communicate(self) -> bool:
        """Read and answer one request. Whether the connection stays."""
        if not self.greeted and not _says_something(self.socket):
            return True  # nothing said yet: no thread waits for its first word
        _reading.limit = limit = threading.Timer(REQUEST_S, self._break_off)
        limit.daemon = True
        limit.start()
        try:
            return self._greet() and bool(super().communicate())  # type: ignore[no-untyped-call, unused-ignore]
        finally:
            limit.cancel()

    def _greet(self) -> bool:
        if not self.greeted and isinstance(self.socket, ssl.SSLSocket):
            try:
                self.socket.do_handshake()
            except OSError as error:
                log.info("no TLS with %s: %s", self.remote_addr, error)
                return False
        self.greeted = True
        return True

    def _break_off(self) -> None:
        try:
            # The plain method: the one of TLS sockets changes what the other thread works with.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        except OSError:
            pass  # closed already


class _TlsAdapter(Adapter):  # type: ignore[misc, unused-ignore]
    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def bind(self, sock: socket.socket) -> socket.socket:
        return sock

    def wrap(self, sock: socket.socket) -> tuple[ssl.SSLSocket, dict[str, str]]:
        try:
            return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), self.get_environ()
        except OSError as error:  # gone before it said anything
            raise FatalSSLAlert(*error.args) from error

    def get_environ(self) -> dict[str, str]:
        return {"wsgi.url_scheme": "https", "HTTPS": "on"}

    def makefile(self, sock: socket.socket, mode: str = "r", bufsize: int = -1) -> Any:
        return (StreamReader if "r" in mode else StreamWriter)(sock, mode, bufsize)


class AgentServer(Server):  # type: ignore[misc, unused-ignore]
    """Serves ``app`` on a socket that listens already."""

    ConnectionClass = _Connection
    max_request_header_size = _HEADER_BYTES_MAX
    max_request_body_size = BODY_BYTES_MAX

    def __init__(self, listener: socket.socket, app: Wsgi, context: ssl.SSLContext | None) -> None:
        super().__init__(
            listener.getsockname()[:2],
            _whole_requests(app),
            numthreads=_THREADS,
            max=_THREADS,
            server_name="taskflow-agent",
            request_queue_size=64,
            timeout=_SILENCE_S,
            accepted_queue_size=_QUEUE,
            accepted_queue_timeout=1,
        )
        self._listener = listener
        self.software = "taskflow-agent"  # the version is nobody's business
        if context is not None:
            self.ssl_adapter = _TlsAdapter(context)

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """The socket that listens already, instead of one of its own."""
        self.socket = self._listener
        return self._listener

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Into the agent's log, not to stderr."""
        log.log(level, "%s", msg, exc_info=traceback)


def _whole_requests(app: Wsgi) -> Wsgi:
    """``app``, called once the whole request is here: from then on only the agent's own work takes time."""

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("wsgi.input_terminated"):
            body = json.dumps({"code": "length_required", "message": "a request says how long it is"}).encode()
            start_response("411 Length Required", [("Content-Type", "application/json"), ("Connection", "close")])
            return [body]
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        if _reading.limit is not None:
            _reading.limit.cancel()
        return app(environ, start_response)

    return serve
