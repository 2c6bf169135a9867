"""Tasks over HTTP: how many are accepted in a second, each committed before its answer.

Their hints go into the queue; the worker is stopped, so that accepting alone is measured.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.measuring import Figures, interleaved, lateness
from bench.report import Measured
from bench.subjects import Subject, Web

CLIENTS = 4
EACH = 400
_WARM = 25
_BODY = json.dumps({"repository": "/srv/repository", "command": ["true"], "title": "submitted"})


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Tasks a second, and milliseconds of a request. There is no peer: none of them takes tasks over HTTP by itself."""
    return interleaved("submit", rounds, (), submit, {"clients": CLIENTS, "tasks": CLIENTS * EACH})


def submit(subject: Subject) -> Figures:
    """One subject's figures."""
    with subject.web() as web, ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda _: _client(web, _WARM), range(CLIENTS)))
        began = time.time()
        took = [one for times in pool.map(lambda _: _client(web, EACH), range(CLIENTS)) for one in times]
        ended = time.time()
    return {"submits_per_s": round(CLIENTS * EACH / (ended - began), 1), **lateness("submit", took)}


def _client(web: Web, number: int) -> list[float]:
    connection = http.client.HTTPConnection(web.host, web.port, timeout=30)
    took = []
    for _ in range(number):
        sent = time.time()
        connection.request("POST", "/api/tasks", body=_BODY, headers=dict(web.headers))
        answer = connection.getresponse()
        text = answer.read()
        if answer.status not in (201, 202):
            raise RuntimeError(f"POST /api/tasks: {answer.status} {text[:300]!r}")
        took.append(time.time() - sent)
    connection.close()
    return took
