"""A TCP proxy on 127.0.0.1 that can break what passes: refuse, reset, swallow or delay it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any

MODES = ("pass", "refuse", "reset", "half_open", "delay")
_DELAY_S = 0.3
_CHUNK = 65536


class Proxy:
    """One link. ``target_port`` may be set later; until then connections are closed at once.

    ``told``: each connection begins with a line that names its target's port, for servers that come and go.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, target_port: int = 0) -> None:
        self.target_port = target_port
        self.told = False
        self.mode = "pass"
        self._loop = loop
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._run(self._listen())

    def set_mode(self, mode: str) -> None:
        """Switch to one of ``MODES``. Raises ``ValueError`` for another word.

        ``refuse`` ends what is open and closes each new connection at once; ``reset`` does so with RST. ``half_open``
        accepts and never answers, and goes silent on what is open; its connections are reset when it ends, since
        bytes were swallowed. ``delay`` holds back each piece.
        """
        if mode not in MODES:
            raise ValueError(f"{mode} is not one of {MODES}")
        self._run(self._switch(mode))

    def close(self) -> None:
        """End every connection and stop listening."""
        self._run(self._switch("refuse"))
        self._loop.call_soon_threadsafe(self._server.close)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _switch(self, mode: str) -> None:
        former, self.mode = self.mode, mode
        if mode in ("refuse", "reset") or (former == "half_open" and mode != "half_open"):
            for writer in list(self._writers):
                _end(writer, reset=mode != "refuse")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        out: asyncio.StreamWriter | None = None
        try:
            if self.mode in ("refuse", "reset") or not (self.target_port or self.told):
                _end(writer, reset=self.mode == "reset")
                return
            if self.mode == "half_open":
                await reader.read(-1)
                return
            port = int(await reader.readline() or b"0") if self.told else self.target_port
            back, out = await asyncio.open_connection("127.0.0.1", port)
            self._writers.add(out)
            pumps = [asyncio.create_task(self._pump(reader, out)), asyncio.create_task(self._pump(back, writer))]
            await asyncio.wait(pumps)
        except OSError:
            pass  # the other side is down: the client sees its connection end
        finally:
            for used in (writer, out):
                if used is not None:
                    self._writers.discard(used)
                    used.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.mode == "delay":
                    await asyncio.sleep(_DELAY_S)  # the fault itself
                if self.mode == "half_open":
                    continue
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort() if reset else writer.close()


class Proxies:
    """Named links, served by one thread."""

    def __init__(self, *names: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self.links = {name: Proxy(self._loop) for name in names}

    def __getitem__(self, name: str) -> Proxy:
        return self.links[name]

    def heal(self) -> None:
        """Let everything pass."""
        for link in self.links.values():
            link.set_mode("pass")

    def close(self) -> None:
        """End all links and their thread."""
        for link in self.links.values():
            link.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
