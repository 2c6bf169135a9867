"""A run as a test sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskflow.testing.kit import Kit


class KitRun:
    """One run of a kit. Every property is read anew; every verb has had its effects when it returns."""

    def __init__(self, kit: Kit, run_id: str) -> None:
        self._kit = kit
        self.id = run_id

    def __repr__(self) -> str:
        return f"<run {self.id}: {self.status} at {self.step}>"

    @property
    def shown(self) -> dict[str, Any]:
        """All of it, as the API shows it."""
        found: dict[str, Any] = self._kit.service.runs.get(self._kit.caller, self.id)
        return found

    @property
    def status(self) -> str:
        """running, waiting (for a signal), completed, failed or cancelled."""
        return str(self.shown["status"])

    @property
    def finished(self) -> bool:
        """Whether nothing of it goes on any more, cleanup included."""
        return bool(self.shown["finished"])

    @property
    def step(self) -> str | None:
        """Where it stands while it is open."""
        step: str | None = self.shown["step"]
        return step

    @property
    def awaiting(self) -> str | None:
        """The signal it waits for."""
        name: str | None = self.shown["awaiting"]
        return name

    @property
    def results(self) -> dict[str, Any]:
        """What its steps left so far."""
        return dict(self.shown["results"])

    @property
    def result(self) -> dict[str, Any] | None:
        """What it ended with."""
        found: dict[str, Any] | None = self.shown["result"]
        return found

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it failed or was cancelled: ``code``, ``message``, ``step``."""
        found: dict[str, Any] | None = self.shown["error"]
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its history."""
        return list(self._kit.service.runs.events(self._kit.caller, self.id, limit=1000))

    @property
    def steps(self) -> list[str]:
        """The steps it entered, in order, the first one included."""
        return [event["step"] for event in self.events if event["kind"] in ("run_started", "step_entered")]

    @property
    def why(self) -> str:
        """What it waits for, in a sentence."""
        return str(self._kit.service.run_explain.why(self._kit.caller, self.id)["summary"])

    def signal(self, name: str, data: Mapping[str, Any] | None = None, *, message_id: str = "") -> bool:
        """Send a signal as its owner; whether it is new."""
        said = self._kit.service.runs.signal(self._kit.caller, self.id, name, data or {}, message_id=message_id)
        self._kit.settle()
        return bool(said["recorded"])

    def cancel(self, reason: str | None = None) -> None:
        """Ask for its cancellation."""
        self._kit.service.runs.cancel(self._kit.caller, self.id, reason)
        self._kit.settle()

    def rerun(self) -> KitRun:
        """Start it again with the same input; the new run."""
        again, _made = self._kit.service.runs.rerun(self._kit.caller, self.id)
        self._kit.settle()
        return KitRun(self._kit, again["id"])

    def finish(self, *, limit_s: float = 7 * 86_400.0) -> KitRun:
        """Let time pass until it has ended; raise ``AssertionError`` when that takes more than ``limit_s``."""
        self._kit.advance_until(lambda: self.finished, f"{self!r} ends", limit_s=limit_s)
        return self
