"""A minute of the monkey on the real stack, another seed each day, and the parts that make it worth believing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow.agent.store import Store
from taskflow.vault import Vault
from tests.chaos import plan
from tests.chaos.canary import Canary
from tests.chaos.placed import Placed
from tests.chaos.proxy import Proxies
from tests.chaos.session import run_chaos

_MONKEY_MINUTES, _TASKS = 1.0, 20


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_minute_of_chaos(tmp_path: Path) -> None:
    """Every promise is kept under today's seed; ``CHAOS_SEED`` repeats another day's."""
    seed = int(os.environ.get("CHAOS_SEED", time.time() // 86_400))
    again = f"again with: python -m tests.chaos --tasks {_TASKS} --minutes {_MONKEY_MINUTES:g} --seed {seed} --keep"
    print(f"\nseed {seed}; {again}")
    report = run_chaos(tmp_path / "chaos", tasks=_TASKS, minutes=_MONKEY_MINUTES, seed=seed)
    assert report["ok"], f"{again}\n{json.dumps(report, indent=1)}"
    shutil.rmtree(tmp_path / "chaos")


def test_the_plan_is_a_function_of_the_seed() -> None:
    """The same seed gives the same plan, another one another, and it kills twice in ten seconds."""
    assert plan.faults(7, 600) == plan.faults(7, 600) != plan.faults(8, 600)
    assert plan.jobs(7, 100, 600) == plan.jobs(7, 100, 600) != plan.jobs(8, 100, 600)
    for seed in range(50):
        made = plan.faults(seed, 600)
        assert sum(fault.kind == "kill" for fault in made) >= 120
        assert {fault.target for fault in made if fault.kind == "roll"} == {"worker", "worker-2", "web"}
        killed = [fault.target for fault in made if fault.kind == "kill"]
        assert min(killed.count(name) for name in ("supervisor", "postgres", "valkey")) >= 2


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything again."""
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


def test_the_proxy_breaks_what_it_is_told_to(echo: int) -> None:
    """Each mode does to a connection what its name says, and passing works again after it."""
    proxies = Proxies("link")
    try:
        link = proxies["link"]
        link.target_port = echo

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", link.port), timeout=2) as client:
                client.sendall(b"hi")
                return client.recv(10)

        assert ask() == b"hi"
        link.set_mode("refuse")
        assert _fails(ask) in (b"", ConnectionResetError, BrokenPipeError)
        link.set_mode("reset")
        assert _fails(ask) in (ConnectionResetError, BrokenPipeError)
        link.set_mode("half_open")
        assert _fails(ask) is TimeoutError
        link.set_mode("delay")
        assert ask() == b"hi"
        proxies.heal()
        assert ask() == b"hi"
    finally:
        proxies.close()


def test_a_proxy_that_is_told_serves_each_connection_where_it_says(echo: int) -> None:
    """The first line names the port and does not pass; what is broken by a mode is broken here too."""
    proxies = Proxies("link")
    try:
        proxies["link"].told = True

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", proxies["link"].port), timeout=2) as client:
                client.sendall(f"{echo}\nhi".encode())
                return client.recv(10)

        assert ask() == b"hi"
        proxies["link"].set_mode("reset")
        assert _fails(ask) in (ConnectionResetError, BrokenPipeError)
    finally:
        proxies.close()


def _fails(ask: object) -> object:
    try:
        return ask()  # type: ignore[operator]
    except OSError as error:
        return type(error)


def test_the_canary_is_found_where_it_lies(tmp_path: Path) -> None:
    """A secret in a file is found, also across the border of two pieces; where it is kept on purpose it may lie."""
    canary = Canary(["sing-me-a-song"])
    (tmp_path / "clean").write_text("nothing here")
    (tmp_path / "stack.json").write_text("sing-me-a-song")
    assert canary.in_files(tmp_path) == []
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log").write_bytes(b"x" * ((1 << 20) - 5) + b"sing-me-a-song")
    assert canary.in_files(tmp_path) == [f"file {tmp_path / 'deep' / 'log'}"]


def test_a_derived_token_is_found_among_many(tmp_path: Path) -> None:
    """Also where PostgreSQL would write it as bytes; another text of the same form is not taken for one."""
    made = [
        Vault("a secret key for this test").derive_token("workspace", f"ws-01m84jcfx84kr8t8hp64z2h{number:03d}")
        for number in range(50)
    ]
    canary = Canary(["nothing"])
    canary.tokens = frozenset(token.encode() for token in made[:-1])
    (tmp_path / "log").write_text(f"sent {made[-1]} to the node")
    assert canary.in_files(tmp_path) == []
    (tmp_path / "log").write_text(f"sent Bearer {made[7]} to the node")
    assert canary.in_files(tmp_path) == [f"file {tmp_path / 'log'}"]


def test_one_workspace_on_two_nodes_is_seen(tmp_path: Path) -> None:
    """Each node's own record counts, deleted workspaces too, and also when a node's folder is gone by then."""
    placed = Placed(tmp_path)
    for node, made in (("node-a", ("ws-1", "ws-2")), ("node-b", ("ws-2", "ws-3"))):
        (tmp_path / "nodes" / node).mkdir(parents=True)
        store = Store(tmp_path / "nodes" / node / "agent.db")
        for name in made:
            store.bury(name, 1)
        store.close()
        placed.look()
        shutil.rmtree(tmp_path / "nodes" / node)
    assert placed.twice() == ["ws-2 was on ['node-a', 'node-b']"]
