"""Answers that go on: what they carry, when they end, how many there may be."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
import threading
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import insert, update

from taskflow.clock import ManualClock
from taskflow.db.models import AgentSession, LogChunk
from taskflow.errors import InfrastructureError, Overloaded, TooMany
from taskflow.settings import Settings
from tests.support.waiting import wait_until
from tests.web.world import World
from web import streams
from web.streams import HEARTBEAT_S, STUCK_S, Stream, Streams

STREAM = {"Accept": "text/event-stream"}


class Parts:
    """An open stream, read part by part as a client does."""

    def __init__(self, world: World, path: str, headers: dict[str, str] | None = None, **kwargs: Any) -> None:
        self.answer = world.call("GET", path, headers={**STREAM, **(headers or {})}, **kwargs)
        assert self.answer.status_code == 200, self.answer.text
        assert self.answer.mimetype == "text/event-stream"
        self._parts = self.answer.iter_encoded()

    def close(self) -> None:
        """The client goes."""
        self.answer.close()

    def next(self) -> list[dict[str, str]]:
        """The events of the next part that has any; a place without an event is one with an ``id`` alone."""
        while True:
            blocks = next(self._parts).decode().split("\n\n")
            found = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks if block]
            events = [event for event in found if "id" in event]
            if events:
                return events

    def data(self, count: int) -> list[dict[str, Any]]:
        """The data of the next ``count`` events, each with the ``id`` it came under."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += [{**json.loads(event["data"]), "id": event["id"]} for event in self.next() if "data" in event]
        return found


@pytest.fixture
def open_streams(world: World) -> Streams:
    """Those of the world's app."""
    found: Streams = world.client.application.extensions["taskflow.streams"]
    return found


def _cancel(world: World, task: dict[str, Any]) -> None:
    assert world.call("POST", f"/api/tasks/{task['id']}/cancel", {}).status_code == 202


def test_a_task_is_followed_and_the_connection_goes_on_where_it_broke(world: World) -> None:
    """What is committed while the stream is open comes over it; a new one with Last-Event-ID repeats nothing."""
    task = world.submit()
    path = f"/api/tasks/{task['id']}/events"
    with closing(Parts(world, path)) as stream:
        (first,) = stream.data(1)
        assert (first["seq"], first["id"], first["subject_id"]) == (1, "1", task["id"])
        _cancel(world, task)
        assert [event["kind"] for event in stream.data(1)] == ["cancel_requested"]
    world.end(task, "cancelled")
    listed = world.call("GET", path).get_json()["events"]
    with closing(Parts(world, f"{path}?after=1", {"Last-Event-ID": "2"})) as stream:
        assert stream.next() == [{"id": "2"}], "its place, before anything happens"
        (last,) = stream.data(1)
        assert last == {**listed[2], "id": "3"}, "the stream and the list show the same"
    with closing(Parts(world, f"{path}?after=1")) as stream:
        assert [event["seq"] for event in stream.data(2)] == [2, 3]


def test_a_node_is_listed_and_followed(world: World) -> None:
    """Its history, by its own numbers."""
    place = world.place(world.submit())
    path = f"/api/nodes/{place.node_id}/events"
    listed = world.call("GET", path).get_json()
    assert listed["next"] == len(listed["events"]) > 0
    assert {event["subject_kind"] for event in listed["events"]} == {"node"}
    with closing(Parts(world, path)) as stream:
        assert len(stream.data(listed["next"])) == listed["next"]
        world.call("POST", f"/api/nodes/{place.node_id}/destroy", {})
        assert stream.data(1)[0]["data"]["destroy_requested"] is True


def test_everything_of_an_owner_is_one_feed(world: World) -> None:
    """Tasks and nodes in one order; pages by cursor and a stream show the same; another owner sees none of it."""
    tasks = [world.submit() for _ in range(2)]
    world.place(tasks[0])
    found, cursor = [], None
    while True:
        query = {"limit": "1"} | ({"after": cursor} if cursor else {})
        page = world.call("GET", "/api/events", query_string=query).get_json()
        if not page["events"]:
            break
        found += page["events"]
        cursor = page["next"]
        assert page["events"][-1]["cursor"] == cursor
    assert {event["subject_kind"] for event in found} == {"task", "node"}
    with closing(Parts(world, "/api/events")) as stream:
        assert [{**event, "id": event["cursor"]} for event in found] == stream.data(len(found))
        world.submit(title="later")
        (later,) = stream.data(1)
    with closing(Parts(world, "/api/events", {"Last-Event-ID": found[-1]["cursor"]})) as stream:
        assert stream.data(1) == [later]
    theirs = world.call("GET", "/api/events", token=world.other_token).get_json()
    assert theirs["events"] == []


def test_a_feed_from_now_on_remembers_where_it_began(world: World) -> None:
    """Who loses the connection before the first event came goes on at the place that was sent first."""
    world.submit()
    page = world.call("GET", "/api/events?after=now").get_json()
    assert page["events"] == []
    with closing(Parts(world, "/api/events?after=now")) as stream:
        (begin,) = stream.next()
    assert begin == {"id": page["next"]}
    task = world.submit()
    with closing(Parts(world, "/api/events?after=now", {"Last-Event-ID": begin["id"]})) as stream:
        assert stream.data(1)[0]["subject_id"] == task["id"]


@pytest.mark.parametrize("cursor", ["x", "1", "-", "1-", "1-2-3", "1-x", "9" * 19 + "-1", "1-٣", "1-1\0"])
def test_a_place_that_is_not_ours_is_refused(world: World, cursor: str) -> None:
    """As a page and as a stream, naming the field; a header that is no number of a task's stream too."""
    answer = world.call("GET", "/api/events", query_string={"after": cursor})
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["after"])
    answer = world.call("GET", "/api/events", query_string={"after": cursor}, headers=STREAM)
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["after"])
    if cursor.isascii() and cursor.isprintable():
        task = world.submit()
        for path in ("/api/events", f"/api/tasks/{task['id']}/events", f"/api/tasks/{task['id']}/logs"):
            if not (cursor == "1" and path != "/api/events"):
                answer = world.call("GET", path, headers={**STREAM, "Last-Event-ID": cursor})
                assert answer.status_code == 422, path
                assert list(answer.get_json()["error"]["fields"]) == ["Last-Event-ID"]


def test_another_owners_things_do_not_exist_as_a_stream(world: World, open_streams: Streams) -> None:
    """404 with the usual body, and no place is taken."""
    task = world.submit()
    place = world.place(task)
    for path in (f"tasks/{task['id']}/events", f"tasks/{task['id']}/logs", f"nodes/{place.node_id}/events"):
        for token, status in ((world.other_token, 404), (None, 401), (place.node_token, 403)):
            answer = world.call("GET", f"/api/{path}", headers=STREAM, token=token)
            assert (answer.status_code, answer.mimetype) == (status, "application/json"), path
    assert world.call("GET", "/api/events", headers=STREAM, token=None).status_code == 401
    assert not open_streams._open


def test_nothing_on_the_way_keeps_or_holds_back_a_stream(world: World) -> None:
    """The headers say so; JSON stays what comes when nothing is asked for."""
    with closing(Parts(world, "/api/events")) as stream:
        headers = stream.answer.headers
        assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert not [name for name in headers if name[0].lower().startswith("access-control")]
    for accept in ("*/*", "application/json", "application/json, text/event-stream;q=0.5", "text/html"):
        assert world.call("GET", "/api/events", headers={"Accept": accept}).mimetype == "application/json"


# --- output


def _output(world: World, *chunks: bytes, ended: bool = False) -> str:
    """A task whose session wrote these chunks; its path."""
    task = world.submit()
    place = world.place(task)
    for number, data in enumerate(chunks, 1):
        _write(world, place.session_id, number, data)
    if ended:
        _end(world, place.session_id)
    return f"/api/tasks/{task['id']}/logs"


def _write(world: World, session_id: str, number: int, data: bytes) -> None:
    values = {"session_id": session_id, "number": number, "data": data, "at": 1.0}
    world.database.write(lambda tx: tx.execute(insert(LogChunk).values(values)))


def _end(world: World, session_id: str) -> None:
    ended = update(AgentSession).where(AgentSession.id == session_id).values(status="ended", ended_at=1.0)
    world.database.write(lambda tx: tx.execute(ended))


def test_output_is_followed_to_its_end(world: World) -> None:
    """Each piece once, in order, as it comes; then `end`, and the stream is over."""
    task = world.submit()
    place = world.place(task)
    _write(world, place.session_id, 1, b"one\n")
    with closing(Parts(world, f"/api/tasks/{task['id']}/logs")) as stream:
        assert stream.data(1) == [{"number": 1, "text": "one\n", "id": "1"}]
        _write(world, place.session_id, 2, b"two\n")
        assert stream.data(1) == [{"number": 2, "text": "two\n", "id": "2"}]
        _end(world, place.session_id)
        assert [event["event"] for event in stream.next()] == ["end"]
        with pytest.raises(StopIteration):
            stream.next()


def test_a_character_that_was_cut_in_two_comes_whole(world: World) -> None:
    """However the bytes are cut, and wherever the reader connects again; what is no text is replaced."""
    text = "a€😀é\n"
    raw = text.encode()
    path = _output(world, *(raw[at : at + 1] for at in range(len(raw))), b"\xff!\xe2\x82", ended=True)
    with closing(Parts(world, path)) as stream:
        whole = stream.data(len(raw) + 2)
    assert "".join(piece["text"] for piece in whole) == text + "�!" + "�"
    assert base64.b64decode(world.call("GET", path).get_json()["chunks"][1]["data"]) == raw[1:2]
    for seen in range(len(raw) + 1):
        with closing(Parts(world, path, {"Last-Event-ID": str(seen)})) as stream:
            assert stream.data(len(whole) - seen) == whole[seen:], seen


def test_the_output_of_a_task_that_never_ran_ends(world: World) -> None:
    """There is nothing to wait for once it is cancelled."""
    draft = world.submit(start=False)
    _cancel(world, draft)
    with closing(Parts(world, f"/api/tasks/{draft['id']}/logs")) as stream:
        assert [event["event"] for event in stream.next()] == ["end"]


def test_the_output_of_an_earlier_run_that_had_none_ends(world: World) -> None:
    """Although its task is under way again: whoever followed it would wait for the end of another run."""
    task = world.submit()
    world.end(task, "failed")
    world.call("POST", f"/api/tasks/{task['id']}/rerun")
    for run_id in (task["run_id"], world.submit()["run_id"], "run-unknown"):
        with closing(Parts(world, f"/api/tasks/{task['id']}/logs?run_id={run_id}")) as stream:
            assert [event["event"] for event in stream.next()] == ["end"]


# --- ends and limits


@pytest.mark.parametrize("limit", ["streams_per_token", "streams_max"])
def test_one_stream_too_many_is_refused_and_leaves_room_when_another_ends(
    world: World, open_streams: Streams, settings: Settings, limit: str
) -> None:
    """429 for the token's own limit, 503 for the process'; both say when to ask again; pages are served all the time."""
    two: dict[str, Any] = {limit: 2}
    open_streams._settings = dataclasses.replace(settings, **two)
    parts = [Parts(world, "/api/events") for _ in range(2)]
    answer = world.call("GET", "/api/events", headers=STREAM)
    own = limit == "streams_per_token"
    assert answer.status_code == (429 if own else 503)
    assert answer.get_json()["error"]["code"] == ("too_many_streams" if own else "no_room_for_streams")
    assert int(answer.headers["Retry-After"]) > 0
    assert world.call("GET", "/api/events").status_code == 200
    other = world.call("GET", "/api/events", headers=STREAM, token=world.other_token)
    assert other.status_code == (200 if own else 503), "another token's limit is its own"
    other.close()
    parts.pop().close()
    parts.append(Parts(world, "/api/events"))
    for stream in parts:
        stream.close()
    assert not open_streams._open
    wait_until(lambda: open_streams._thread is None, "nobody listens, so nobody looks for news")


def test_a_head_request_keeps_no_place(world: World, open_streams: Streams) -> None:
    """It is answered and over."""
    world.call("HEAD", "/api/events", headers=STREAM).close()
    assert not open_streams._open


class Feed:
    """What a stream reads, and what tells it that there is something, in the hands of a test."""

    def __init__(self, **limits: Any) -> None:
        self.clock = ManualClock()
        self.streams = Streams(dataclasses.replace(Settings(), **limits), self.clock)
        self.rows: list[bytes] = []
        self.reads = 0
        self.live = True
        self.news = False
        self.error: Exception | None = None
        self.parts: list[bytes] = []
        self.thread: threading.Thread | None = None

    def changed(self) -> bool:
        """Once for each piece of news."""
        news, self.news = self.news, False
        if self.error:
            raise self.error
        return news

    def closed(self) -> None:
        """Nothing is held."""

    close = closed

    def read(self) -> tuple[bytes, bool]:
        """The next row."""
        self.reads += 1
        if self.error:
            raise self.error
        return (self.rows.pop(0) if self.rows else b""), False

    def open(self, token_id: str = "t") -> Stream:
        """A stream of it."""
        return self.streams.open(
            self.read, token_id=token_id, is_live=lambda: self.live, watch=lambda: self, connection=None
        )  # fmt: skip

    def run(self) -> Feed:
        """Read a stream to its end in a thread."""
        stream = self.open()

        def take() -> None:
            with closing(stream):
                self.parts.extend(stream)

        self.thread = threading.Thread(target=take, daemon=True)
        self.thread.start()
        wait_until(lambda: self.reads > 0, "it has looked once")
        return self

    def ended(self) -> bool:
        """Whether the stream ended."""
        assert self.thread is not None
        self.thread.join(10)
        return not self.thread.is_alive() and not self.streams._open


def test_a_stream_that_waits_reads_nothing_until_there_is_news() -> None:
    """What waiting costs is the one look of the process, whoever waits."""
    feed = Feed().run()
    before = feed.reads
    threading.Event().wait(3 * streams.POLL_S)  # some looks of the thread, which find nothing
    assert feed.reads <= before + 1, "at most the news that the first look always is"
    feed.rows.append(b"row")
    feed.news = True
    wait_until(lambda: b"row" in feed.parts, "the news is sent")
    feed.streams.stop_when(lambda: True)
    assert feed.ended()


def test_silence_is_broken_by_a_heartbeat() -> None:
    """After fifteen seconds without anything, and not before."""
    feed = Feed().run()
    assert feed.parts == [f"retry: {streams.RETRY_MS}\n\n".encode()]
    feed.clock.advance(HEARTBEAT_S - 1)
    threading.Event().wait(2 * streams.POLL_S)  # it looks at the clock at each look of the thread
    assert len(feed.parts) == 1
    feed.clock.advance(1)
    wait_until(lambda: feed.parts[1:] == [b": \n\n"], "a heartbeat is sent")
    feed.streams.stop_when(lambda: True)
    assert feed.ended()


@pytest.mark.parametrize("why", ["revoked", "too old", "stop", "a store failed"])
def test_a_stream_ends_when(why: str) -> None:
    """Its token is no longer good, its time is over, the server stops, or it can't be read any more."""
    feed = Feed(stream_max_s=100.0).run()
    feed.clock.advance(HEARTBEAT_S)
    wait_until(lambda: len(feed.parts) == 2, "it goes on after a heartbeat")
    if why == "revoked":
        feed.live = False
        feed.clock.advance(HEARTBEAT_S)
    elif why == "too old":
        feed.clock.advance(100.0)
    elif why == "stop":
        feed.streams.stop_when(lambda: True)
        with pytest.raises(Overloaded):
            feed.open()
    else:
        feed.news = True
        feed.error = InfrastructureError("gone", code="database")
        feed.clock.advance(HEARTBEAT_S)
    assert feed.ended()


def test_a_look_that_fails_is_made_again() -> None:
    """News that came while the store was away is sent when it is back."""
    feed = Feed().run()
    looks: list[bool] = []
    changed = feed.changed

    def failing() -> bool:
        looks.append(True)
        if len(looks) < 3:
            raise InfrastructureError("gone", code="database")
        return changed()

    feed.changed = failing  # type: ignore[method-assign]
    feed.rows.append(b"row")
    feed.news = True
    wait_until(lambda: b"row" in feed.parts, "the news is sent after all")
    assert len(looks) >= 3
    feed.streams.stop_when(lambda: True)
    assert feed.ended()


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """A write that waits for longer than it may is ended with its connection; one that waits a little is not."""
    ours, theirs = socket.socketpair()
    feed = Feed()
    stream = feed.streams.open(
        feed.read, token_id="t", is_live=lambda: True, watch=lambda: feed, connection=ours
    )  # fmt: skip
    next(stream)  # from here on the server writes
    feed.clock.advance(STUCK_S - 1)
    stream.look(stopping=False)
    ours.sendall(b"still open")
    feed.clock.advance(2)
    wait_until(lambda: stream.cut_off, "it is cut off")
    with pytest.raises(BrokenPipeError):
        ours.sendall(b"x")
    assert list(stream) == []
    stream.close()
    ours.close()
    theirs.close()


def test_the_place_of_a_client_that_went_is_free_at_once() -> None:
    """It is seen at the connection, not at the next heartbeat."""
    ours, theirs = socket.socketpair()
    feed = Feed(streams_max=1)
    stream = feed.streams.open(
        feed.read, token_id="t", is_live=lambda: True, watch=lambda: feed, connection=ours
    )  # fmt: skip
    next(stream)
    with pytest.raises(Overloaded):
        feed.open()
    theirs.close()
    assert list(stream) == []
    stream.close()
    feed.open("other").close()
    ours.close()


def test_the_limit_of_a_token_does_not_count_those_of_others() -> None:
    """Each has its own."""
    feed = Feed(streams_per_token=1)
    one, other = feed.open("a"), feed.open("b")
    with pytest.raises(TooMany):
        feed.open("a")
    one.close()
    feed.open("a").close()
    other.close()
