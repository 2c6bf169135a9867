"""Reports of workspaces over the real HTTP route: until they are answered, and until the step that waits for them runs."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence

from bench.measuring import Figures, interleaved, lateness
from bench.report import Measured
from bench.subjects import Subject, Web, wait_looks

ONE_BY_ONE = 200
_WARM = 20
_PAUSE_S = 0.02
_BODY = json.dumps({"status": "ready", "base_commit": "0" * 40, "error": None})


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Milliseconds. There is no peer: none of them has such a route."""
    return interleaved("callbacks", rounds, (), callbacks, {"callbacks": ONE_BY_ONE})


def callbacks(subject: Subject) -> Figures:
    """One subject's figures, idle but for them."""
    jobs = [f"job-{number}" for number in range(_WARM + ONE_BY_ONE)]
    routes = subject.await_callbacks(jobs)
    answered, looked = [], []
    with subject.web(working=True) as web:
        connection = http.client.HTTPConnection(web.host, web.port, timeout=30)
        for job in jobs:
            time.sleep(_PAUSE_S)  # each finds the installation at rest
            sent = time.time()
            _report(connection, web, *routes[job])
            answered.append(time.time() - sent)
            (look,) = wait_looks(subject, 1, poll_s=0.0005)
            looked.append(look.at - sent)
        connection.close()
    return lateness("callback", answered[_WARM:]) | lateness("callback_to_step", looked[_WARM:])


def _report(connection: http.client.HTTPConnection, web: Web, path: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", path, body=_BODY, headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"POST {path}: {answer.status} {text[:300]!r}")
