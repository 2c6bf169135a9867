"""Durable Objects on workerd, their runtime, with objects on the local disk."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bench.installing import npm_folder
from bench.subjects import Subject
from bench.subjects.outside import ROOT, Outside, folder_of, process, wait_for
from taskflow.stack.ports import free_port
from tests.support.seen import Look

_PACKAGES = {"workerd": "1.20261117.1"}
_CONFIG = ROOT / "bench" / "peers" / "workerd" / "config.capnp"
_CHUNK = 50


class Workerd(Outside):
    """Its one process, asked over HTTP: many objects in one request, so that asking costs it little."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder)
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, name: str, argument: Any) -> None:
        """See ``Outside``."""
        if not isinstance(argument, list | dict):
            self._request("POST", json.dumps({"name": name, "argument": argument}))
            return
        items = iter(argument.items() if isinstance(argument, dict) else argument)
        while chunk := list(islice(items, _CHUNK)):
            some = dict(chunk) if isinstance(argument, dict) else chunk
            self._request("POST", json.dumps({"name": name, "argument": some}))

    def looks(self) -> list[Look]:
        """See ``Subject``; its clock cuts off parts of a millisecond, on average half of one."""
        return [Look(job, at_ms / 1000 + 0.0005, 0) for job, at_ms in json.loads(self._request("GET", None))]

    def answers(self) -> bool:
        """Whether it serves."""
        try:
            self._request("GET", None)
        except OSError:
            self._http.close()
            return False
        return True

    def _request(self, method: str, body: str | None) -> bytes:
        self._http.request(method, "/", body=body)
        answer = self._http.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"workerd: {answer.status} {text[:300]!r}")
        return text


@contextlib.contextmanager
def workerd() -> Iterator[Subject]:
    """On a port of its own."""
    binary = npm_folder("workerd", _PACKAGES) / "node_modules" / "workerd" / "bin" / "workerd"
    with folder_of("workerd") as folder:
        disk, log, port = folder / "disk", folder / "workerd.log", free_port()
        disk.mkdir()
        argv: Sequence[str] = [
            str(binary), "serve", str(_CONFIG), "--experimental", f"--directory-path=disk={disk}",
            f"--socket-addr=http=127.0.0.1:{port}",
        ]  # fmt: skip
        with process(argv, folder, log):
            subject = Workerd(folder, port)
            wait_for("workerd", subject.answers, log)
            yield subject


def versions() -> dict[str, str]:
    """What of it was measured, and the date its runtime behaves like."""
    date = re.search(r'compatibilityDate = "([^"]+)"', _CONFIG.read_text())
    return {**_PACKAGES, "compatibility date": date.group(1) if date else ""}
