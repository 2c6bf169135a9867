"""The proxy's site, on a real nginx: what arrives at the web, and how soon its pieces come back."""

from __future__ import annotations

import getpass
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from taskflow.stack.ports import free_port
from tests.support.house import ROOT
from tests.support.processes import die_with_parent, end_process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx here: apt-get install nginx-light")

MIB = 2**20


@dataclass
class Proxied:
    """The proxy and what stands behind it."""

    url: str
    plain_url: str
    certificate: Path
    seen: list[str] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    def get(self, path: str, **options: object) -> requests.Response:
        """One request to the name that the certificate is for."""
        return requests.get(self.url + path, verify=str(self.certificate), timeout=30, **options)  # type: ignore[arg-type]


def behind(proxied: Proxied) -> type[BaseHTTPRequestHandler]:
    """In the place of the web: notes the paths, and answers a stream whose second piece waits for ``go_on``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            proxied.seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in (b"data: 1\n\n", b"data: 2\n\n"):
                self.wfile.write(piece)
                self.wfile.flush()
                proxied.go_on.wait(30)

        def do_POST(self) -> None:
            left = int(self.headers["Content-Length"])
            while left:
                left -= len(self.rfile.read(min(left, MIB)))
            proxied.seen.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxied]:
    """deploy/nginx.conf as it is, but for its addresses and its certificate."""
    tls, plain = free_port(), free_port()
    made = Proxied(f"https://localhost:{tls}", f"http://localhost:{plain}", tmp_path / "fullchain.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "privkey.pem", "-out", made.certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), behind(made))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = (ROOT / "deploy" / "nginx.conf").read_text().replace("/etc/ssl/taskflow", str(tmp_path))
    site = re.sub(r" *(listen \[::\]|http2 on).*\n", "", site)
    site = site.replace("listen 443", f"listen 127.0.0.1:{tls}").replace("listen 80", f"listen 127.0.0.1:{plain}")
    site = site.replace("/var/log/nginx", str(tmp_path))
    site = site.replace("127.0.0.1:8750", f"127.0.0.1:{server.server_address[1]}")
    site = site.replace("server_name taskflow.example", "server_name localhost")
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"user {getpass.getuser()}; daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{site}\n}}\n"
    )
    nginx = subprocess.Popen(
        ["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], preexec_fn=die_with_parent(signal.SIGTERM)
    )
    try:
        wait_until((tmp_path / "pid").exists, "nginx runs")
        yield made
    finally:
        made.go_on.set()
        end_process(nginx, signal.SIGTERM)
        server.shutdown()
        server.server_close()


def test_a_path_arrives_as_it_was_sent(proxied: Proxied) -> None:
    """A node signed it: decoded or joined, it would be another one."""
    proxied.go_on.set()
    sent = ["/callbacks/nodes/a%2Fb//heartbeat?x=%20y", "/api/events?after=now&x=%2B", "/readyz"]
    for path in sent:
        prepared = requests.Request("GET", proxied.url).prepare()
        prepared.url = proxied.url + path  # else requests itself would tidy it up
        with requests.Session() as session:
            assert session.send(prepared, verify=str(proxied.certificate), timeout=30).ok
    assert proxied.seen == sent


def test_a_piece_of_a_stream_comes_at_once(proxied: Proxied) -> None:
    """The second one is written only after the first one was read: a proxy that collects would never answer."""
    with proxied.get("/api/events", stream=True) as answer:
        lines = answer.iter_lines()
        assert next(lines) == b"data: 1"
        proxied.go_on.set()
        assert [line for line in lines if line] == [b"data: 2"]


def test_a_callback_may_be_as_long_as_the_web_takes(proxied: Proxied) -> None:
    """32 MiB pass, more is refused before it reaches the web."""
    url = f"{proxied.url}/callbacks/workspaces/w/outcome"
    for size, status in ((32 * MIB, 204), (33 * MIB, 413)):
        answer = requests.post(url, data=b"x" * size, verify=str(proxied.certificate), timeout=60)
        assert answer.status_code == status
    assert len(proxied.seen) == 1


def test_nothing_is_answered_without_tls(proxied: Proxied) -> None:
    """A token that was sent in plain text goes no further."""
    answer = requests.get(f"{proxied.plain_url}/api/tasks", allow_redirects=False, timeout=30)
    assert (answer.status_code, answer.headers["Location"]) == (301, "https://localhost/api/tasks")
    assert proxied.seen == []


def test_the_code_of_a_sign_in_link_is_in_no_log(proxied: Proxied, tmp_path: Path) -> None:
    """Not as the query of what is answered, redirected or refused, and not as the page that a style sheet is asked from."""
    proxied.go_on.set()
    path = "/login?code=tf_code_c0de"
    requests.get(proxied.plain_url + path, allow_redirects=False, timeout=30)
    assert proxied.get("/static/style.css", headers={"Referer": proxied.url + path}).ok
    answers = [proxied.get(path).status_code for _ in range(20)]
    assert answers[:10] == [200] * 10 and 429 in answers  # whoever tries tokens is slowed down
    logs = {log.name: log.read_text() for log in tmp_path.glob("*.log")}
    assert '"GET /login HTTP/1.1" 200' in logs["taskflow.log"] and '"GET /login HTTP/1.1" 429' in logs["taskflow.log"]
    assert [name for name, text in logs.items() if "c0de" in text] == []
