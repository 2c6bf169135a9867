"""The supervisor: starts the processes of one machine in order, keeps them alive, stops them in reverse order."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from taskflow.clock import Clock, SystemClock
from taskflow.errors import InfrastructureError
from taskflow.file_lock import FileLock
from taskflow.files import write_json
from taskflow.logs import get_logger
from taskflow.settings import Settings
from taskflow.stack import leftovers, ports
from taskflow.stack.commands import FLOWER_HOST, FlowerLogin, stack_specs
from taskflow.stack.data_dir import DataDir, StackInfo
from taskflow.stack.environment import anchored_database_url, child_environment
from taskflow.stack.keeper import Keeper, OnEvent, ProcessStatus, StackEvent
from taskflow.stack.process import ProcessSpec, SupervisedProcess
from taskflow.stack.valkey import EmbeddedValkey

log = get_logger(__name__)

TICK_S = 0.1
#: Sessions end by themselves once the lifeline is cut; after this they are killed.
SESSIONS_END_S = 12.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Addresses of a web process that only browsers of this machine reach.
_THIS_MACHINE = frozenset({"127.0.0.1", "::1", "localhost"})
MakeSpecs = Callable[[Settings, DataDir, FlowerLogin | None], Sequence[ProcessSpec]]


class Supervisor:
    """The stack of one data directory.

    ``start()`` returns when everything is ready; ``stop()`` when everything is gone. ``run_forever()`` does both
    around a wait for a signal. All children are started and watched by one thread, which lives until they are gone: the
    kernel ties a child's life to the thread that started it.

    ``make_token``: called when everything runs; gives the API token of the command line. ``make_specs`` replaces the
    processes (tests). ``on_event`` is called from the supervisor's thread and should return soon.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        with_flower: bool = True,
        on_event: OnEvent | None = None,
        make_token: Callable[[], str] | None = None,
        make_specs: MakeSpecs = stack_specs,
        clock: Clock | None = None,
    ) -> None:
        self.data_dir = DataDir(settings)
        self.make_token = make_token
        self._given = settings
        self._effective: Settings | None = None
        self._flower = FlowerLogin() if with_flower else None
        self._on_event = on_event
        self._make_specs = make_specs
        self._clock = clock or SystemClock()
        self._lock = FileLock(self.data_dir.supervisor_lock)
        self._valkey: EmbeddedValkey | None = None
        self._keepers: list[Keeper] = []
        self._status: tuple[ProcessStatus, ...] = ()
        self._thread: threading.Thread | None = None
        self._stop_wanted = threading.Event()
        self._hasten = threading.Event()
        self._up = threading.Event()
        self._failure: BaseException | None = None

    # --- what its owner calls

    @property
    def settings(self) -> Settings:
        """The settings in force, with every address, port and key filled in. Only after ``start()`` began."""
        if self._effective is None:
            raise ValueError("the supervisor was not started")
        return self._effective

    def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises ``InfrastructureError`` when another stack serves the directory, a port is busy, or a process does not
        become ready (with the end of its log); then nothing is left running. Code ``stopped``: ``stop()`` came first.
        """
        self._take_lock()
        try:
            self.data_dir.clear_stack_info()  # left by a stack that was killed
            self._effective = self._fill_in()
        except BaseException:
            self._lock.release()
            raise
        self._thread = threading.Thread(target=self._live, name="supervisor", daemon=True)
        self._thread.start()
        try:
            while not self._up.wait(0.2) and self._thread.is_alive():
                pass
        except BaseException:  # Ctrl-C while starting
            self.stop()
            raise
        if not self._up.is_set():
            self._thread.join()
            raise self._failure or InfrastructureError("stopped while it was starting", code="stopped")

    def stop(self) -> None:
        """Stop everything, in reverse order, and wait for its end. Ctrl-C meanwhile hastens. Repeats are fine."""
        self._stop_wanted.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._thread.join(0.5)
            except KeyboardInterrupt:
                self._hasten.set()

    def hasten(self) -> None:
        """Wait no longer for anything that is being stopped: kill it."""
        self._stop_wanted.set()
        self._hasten.set()

    def run_forever(self, on_ready: Callable[[StackInfo], None] | None = None) -> None:
        """Start (unless started), call ``on_ready``, serve until SIGTERM, SIGINT or SIGHUP, stop. Main thread only.

        A second signal hastens the stop. Raises what ``start()`` raises.
        """
        before = {sig: signal.signal(sig, self._on_signal) for sig in _SIGNALS}
        try:
            if self._thread is None:
                self.start()
            info = self.data_dir.read_stack_info()
            if on_ready and info:
                on_ready(info)
            while self._thread and self._thread.is_alive() and not self._stop_wanted.wait(0.5):
                pass
        except InfrastructureError as error:
            if error.code != "stopped":
                raise
        finally:
            self.stop()
            for sig, handler in before.items():
                signal.signal(sig, handler)
        if self._failure:
            raise self._failure

    def status(self) -> list[ProcessStatus]:
        """Each process: name, pid, restarts, state. Also in ``run/processes.json``."""
        return list(self._status)

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- before the thread

    def _on_signal(self, _sig: int, _frame: FrameType | None) -> None:
        # Not here: the main thread may be inside this very event's wait, holding the lock that ``set`` needs.
        threading.Thread(target=self._want_stop, name="signal", daemon=True).start()

    def _want_stop(self) -> None:
        if self._stop_wanted.is_set():
            self._hasten.set()
        self._stop_wanted.set()

    def _take_lock(self) -> None:
        if self._thread is not None:
            raise ValueError("a supervisor is started once")
        if self._lock.acquire():
            return
        info = self.data_dir.read_stack_info()
        where = f" at {info.url} (process {info.supervisor_pid})" if info else ", which is starting or stopping"
        raise InfrastructureError(
            f"a stack already serves {self.data_dir.root}{where}",
            code="already_serving",
            advice="use that one, stop it, or set TASKFLOW_DATA_DIR to another directory",
            detail={"url": info.url, "pid": info.supervisor_pid} if info else None,
        )

    def _fill_in(self) -> Settings:
        given = self._given
        redis_url = given.redis_url
        if not redis_url:
            self._valkey = EmbeddedValkey(self.data_dir)
            redis_url = self._valkey.url
        flower_port, flower_url = given.flower_port, given.flower_url
        if self._flower:
            flower_port = ports.claim_port(FLOWER_HOST, flower_port, "TASKFLOW_FLOWER_PORT")
            if not flower_url and given.host in _THIS_MACHINE:  # a browser elsewhere would not find Flower there
                flower_url = f"http://{FLOWER_HOST}:{flower_port}"
        return dataclasses.replace(
            given,
            data_dir=str(self.data_dir.root),
            redis_url=redis_url,
            database_url=anchored_database_url(given.database_url) or self.data_dir.database_url,
            port=ports.claim_port(given.host, given.port, "TASKFLOW_PORT"),
            flower_port=flower_port,
            flower_url=flower_url,
            secret_key=self.data_dir.secret_key(),
        )

    # --- the thread

    def _live(self) -> None:
        try:
            self._bring_up()
            if not self._stop_wanted.is_set():
                self._announce()
                self._up.set()
            while not self._stop_wanted.wait(TICK_S):
                self._tick(self._keepers)
        except BaseException as error:
            self._failure = error
        finally:
            self._shut_down()

    def _bring_up(self) -> None:
        specs = list(self._make_specs(self.settings, self.data_dir, self._flower))
        if self._valkey:
            specs.insert(0, self._valkey.spec())
        for spec in specs:
            keeper = Keeper(self._process(spec), self._tell, self._clock)
            self._keepers.append(keeper)
            try:
                self._bring_up_one(keeper)
            except InfrastructureError as error:
                if spec.essential:
                    raise
                keeper.pause(error.message)
            if self._stop_wanted.is_set():
                return

    def _bring_up_one(self, keeper: Keeper) -> None:
        keeper.start()
        while True:
            keeper.look()
            if keeper.state in ("running", "done"):
                return
            if self._stop_wanted.wait(0.03):
                return
            self._tick([other for other in self._keepers if other is not keeper])

    def _process(self, spec: ProcessSpec) -> SupervisedProcess:
        environ = child_environment(self.settings, self._lock.path, with_secrets=spec.secrets)
        return SupervisedProcess(spec, environ, self.data_dir.logs / f"{spec.name}.log", self.data_dir.run)

    def _announce(self) -> None:
        settings, flower = self.settings, self._flower
        token = self.make_token() if self.make_token else settings.token
        self.data_dir.write_stack_info(
            StackInfo(
                url=f"http://{ports.reachable_host(settings.host)}:{settings.port}",
                token=token,
                redis_url=settings.redis_url,
                database_url=settings.database_url,
                flower_url=f"http://{FLOWER_HOST}:{settings.flower_port}" if flower else "",
                flower_user=flower.user if flower else "",
                flower_password=flower.password if flower else "",
                supervisor_pid=os.getpid(),
                started_at=self._clock.now(),
                broker_url=settings.broker_url,
            )
        )

    def _tick(self, keepers: Sequence[Keeper]) -> None:
        for keeper in keepers:
            keeper.tick()

    def _tell(self, event: StackEvent) -> None:
        fields = {"process": event.process, "pid": event.pid, "detail": event.detail or None}
        bad = event.kind in ("died", "not_ready", "crash_loop")
        (log.warning if bad else log.debug)(f"stack_{event.kind}", **{k: v for k, v in fields.items() if v})
        self._write_status()
        if self._on_event:
            try:
                self._on_event(event)
            except Exception:
                log.exception("stack_event_handler_failed", kind=event.kind)

    def _write_status(self) -> None:
        status = tuple(keeper.status() for keeper in self._keepers)
        if status == self._status:
            return
        self._status = status
        try:
            rows = [dataclasses.asdict(row) for row in status]
            write_json(self.data_dir.run / "processes.json", {"supervisor_pid": os.getpid(), "processes": rows})
        except OSError as error:  # a full disk must not end the supervision
            log.warning("processes_file_failed", error=str(error))

    def _shut_down(self) -> None:
        try:
            self.data_dir.clear_stack_info()
        except OSError as error:
            log.warning("stack_file_failed", error=str(error))
        self._tell_of_sessions()
        for keeper in self._keepers:
            keeper.stopping()
        for keeper in reversed(self._keepers):
            if keeper.process.pid is not None:
                keeper.process.stop(self._hasten)
                keeper.stopped()
        if self._valkey:
            self._valkey.release()
        # Cuts the lifeline: what the node agents started ends now, and is given a moment for it.
        self._lock.release()
        self._end_leftovers()

    def _tell_of_sessions(self) -> None:
        try:
            count = leftovers.running_sessions(self.data_dir.root)
        except OSError as error:  # whatever can't be read: the stop goes on
            log.warning("sessions_unknown", error=str(error))
            return
        if count:
            ending = "1 task that is running" if count == 1 else f"{count} tasks that are running"
            detail = f"this ends {ending} on this machine's nodes; to run it again: taskflow rerun"
            self._tell(StackEvent("cut_off", "nodes", detail=detail))

    def _end_leftovers(self) -> None:
        def find() -> list[int]:
            return leftovers.of_stack(self.data_dir.root, self._lock.path)

        end = self._clock.monotonic() + SESSIONS_END_S
        while find() and self._clock.monotonic() < end and not self._hasten.wait(0.05):
            pass
        left = leftovers.kill_all(find)
        if left:
            log.error("stack_left_processes", pids=left)
