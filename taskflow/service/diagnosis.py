"""What could be lost, doubled or delayed, judged from facts: one function for each check, which asks nobody.

Times are seconds. A bound is what the engine promises with these settings; ``docs/explanation/failure.md`` says by what.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from taskflow.settings import Settings

#: A store fuller than this share of its limit is warned of.
_FULL = 0.9
#: Less room on a disk than this, in bytes, is warned of; an error below a tenth of it.
_DISK_LOW_BYTES = 2 * 1024**3
#: Clocks this far apart are ordinary.
_SKEW_ORDINARY_S = 0.5
#: A rescue is made up for by workers after three intervals: one older than this is made up for by nobody.
_NOBODY_S = 45.0


@dataclass(frozen=True)
class Finding:
    """What was found. ``state``: ok, warning, error. ``risk``: none, lost, doubled, delayed. ``at_most_s``: how long the
    delay is at most (or what may be lost, as time); None where that has no bound, or nothing is at risk."""

    check: str
    state: str
    says: str
    risk: str = "none"
    consequence: str = ""
    at_most_s: float | None = None
    advice: str = ""

    def view(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def rebuilt_s(settings: Settings) -> float:
    """How long a run whose control state is gone stands still at most: until a pump or the rescue saw it, and a grace."""
    return settings.rescue_interval_s + settings.pump_interval_s + settings.ring_grace_s


def rung_again_s(settings: Settings) -> float:
    """How long a run whose hint is gone stands still at most."""
    return settings.ring_grace_s + settings.pump_interval_s


def eviction(memory: Mapping[str, Any], settings: Settings) -> Finding:
    """Whether Redis may throw away keys that nobody told it to; ``memory``: its INFO of that name."""
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    limited = int(memory.get("maxmemory", 0) or 0) > 0
    if policy == "noeviction":
        return Finding("redis eviction", "ok", "noeviction: Redis throws nothing away by itself")
    return Finding(
        "redis eviction", "error",
        f"{policy}: Redis may throw away queues, leases and alarms"
        + ("" if limited else " as soon as a maxmemory is set"),
        "delayed",
        "a run whose alarm is evicted stands still until it is rebuilt from SQL, again and again while memory is short; "
        "an evicted lease lets a second worker begin the same step, whose result is refused. No result is lost",
        rebuilt_s(settings), "set maxmemory-policy noeviction",
    )  # fmt: skip


def memory_room(memory: Mapping[str, Any]) -> Finding:
    """How full Redis is; at its limit it refuses writes."""
    limit, used = int(memory.get("maxmemory", 0) or 0), int(memory.get("used_memory", 0) or 0)
    if not limit:
        return Finding("redis memory", "ok", "no maxmemory: the machine's memory is the limit")
    says = f"{used / limit:.0%} of maxmemory is used"
    if used < _FULL * limit:
        return Finding("redis memory", "ok", says)
    return Finding(
        "redis memory", "warning", says, "delayed",
        "when it is full no alarm is set: submissions are kept in SQL, and every task stands still until there is room",
        None, "raise maxmemory, or find out what else fills this Redis",
    )  # fmt: skip


def persistence(info: Mapping[str, Any], settings: Settings) -> Finding:
    """What a restart of Redis costs; ``info``: its INFO persistence."""
    aof, loading_s = bool(info.get("aof_enabled", 0)), rebuilt_s(settings)
    failed = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name, "ok") != "ok"]
    if aof and failed:
        return Finding(
            "redis persistence", "error", f"the append-only file can't be written ({', '.join(failed)})", "delayed",
            "Redis refuses writes until it can: every task stands still", None, "make room on the disk of Redis",
        )  # fmt: skip
    if aof:
        return Finding("redis persistence", "ok", "append-only file on: a restart loses at most the last second or so")
    snapshots = int(info.get("rdb_last_save_time", 0) or 0) > 0 and info.get("rdb_last_bgsave_status", "ok") == "ok"
    says = f"no append-only file: a restart {'goes back to the last snapshot' if snapshots else 'empties it'}"
    return Finding(
        "redis persistence", "warning", says, "delayed",
        "after a restart every open run is rebuilt from SQL; no task is lost and no effect comes twice", loading_s,
        "set appendonly yes, appendfsync everysec",
    )  # fmt: skip


def of_broker(found: Finding, settings: Settings) -> Finding:
    """The same of a Redis that only the broker uses: what it throws away or forgets is a hint, which is rung again."""
    check = f"broker {found.check}"
    if found.state == "ok" or found.at_most_s is None:  # it is well, or refuses what is written
        return replace(found, check=check)
    again = f"alarms that are lost with it are rung again within {rung_again_s(settings):g} s of their time"
    if found.check == "redis persistence":
        return Finding(check, "ok", f"{found.says}; {again}")
    return replace(found, check=check, state="warning", consequence=again, at_most_s=rung_again_s(settings))


def acknowledgement(late: bool, settings: Settings) -> Finding:
    """What a message costs that a dying worker held. ``late``: it is acknowledged after its task."""
    if not late:
        return Finding(
            "acks_late", "ok",
            f"off: an alarm that a dying worker held is rung again within {rung_again_s(settings):g} s of its time",
        )  # fmt: skip
    return Finding(
        "acks_late", "warning", "on: the broker keeps the alarm of a dying worker and delivers it again", "doubled",
        "alarms are delivered twice and dropped, which costs time of the workers; a turn is never done twice", None,
        "leave task_acks_late off: alarms are rung again from their index",
    )  # fmt: skip


def patience(celery: Mapping[str, Any], transport: str) -> Finding:
    """Whether workers wait for a broker that is away, and nobody else does; ``celery``: the settings of the Celery app."""
    options, tries = celery.get("broker_transport_options") or {}, celery.get("broker_connection_max_retries")
    wrong = []
    if tries:
        wrong.append(("broker_connection_max_retries", f"{tries}: workers end after so many tries to reach it", "None"))
    if celery.get("worker_eta_task_limit"):
        wrong.append(("worker_eta_task_limit", "set: what stands behind that many alarms waits for them", "None"))
    if transport == "redis" and options.get("socket_timeout") is None:
        wrong.append(("socket_timeout", "not set: whoever publishes waits for ever on a connection that is dead", "30"))
    if transport == "amqp" and options.get("max_retries") != 0:
        wrong.append(("max_retries", "not 0: whoever publishes waits as long as the broker is away", "0"))
    if not wrong:
        return Finding("broker patience", "ok", "workers wait for a broker that is away, and nobody else does")
    of_transport = ("socket_timeout", "max_retries")
    return Finding(
        "broker patience", "warning", "; ".join(f"{name} is {says}" for name, says, _ in wrong), "delayed",
        "after an outage of the broker alarms wait until workers are started, or publishers are, again", None,
        "set "
        + ", ".join(f"{name} to {to}{' in broker_transport_options' * (name in of_transport)}" for name, _, to in wrong),
    )  # fmt: skip


def visibility(celery: Mapping[str, Any], transport: str, settings: Settings) -> Finding:
    """Whether the broker may deliver again what a worker still waits with."""
    options = celery.get("broker_transport_options") or {}
    if transport != "redis":
        return Finding("visibility_timeout", "ok", "does not count: the broker is no Redis")
    timeout_s = float(options.get("visibility_timeout", 3600))
    if not options.get("ack_emulation", True):
        return Finding("visibility_timeout", "ok", "does not count: messages are not kept for acknowledgement")
    if timeout_s > settings.near_window_s + settings.lease_s:
        return Finding(
            "visibility_timeout", "ok",
            f"{timeout_s:g} s: longer than an alarm is held by a worker ({settings.near_window_s:g} s)",
        )  # fmt: skip
    return Finding(
        "visibility_timeout", "warning", f"{timeout_s:g} s: shorter than a worker holds an alarm", "doubled",
        "alarms are delivered twice; the second one is dropped, no step is done twice", None,
        f"set it to more than {settings.near_window_s + settings.lease_s:g} s",
    )  # fmt: skip


def skew(between: str, seconds: float, settings: Settings) -> Finding:
    """What clocks that differ do. ``seconds``: how far the other one is ahead of this host's."""
    name, far = f"clock {between}", abs(seconds)
    says = f"{far:.2f} s {'ahead of' if seconds >= 0 else 'behind'} this host"
    if far <= _SKEW_ORDINARY_S:
        return Finding(name, "ok", says)
    late_s = min(far, settings.near_window_s) + rung_again_s(settings)
    return Finding(
        name, "error" if far >= settings.signature_age_s else "warning", says, "delayed",
        "alarms carry a time of day: they fire late or have to be rung again. Leases and deadlines go by the clock of "
        "Redis alone, so nothing is lost or doubled; API tokens expire by the host's clock",
        late_s, "run NTP (chrony, systemd-timesyncd) on every host of this installation",
    )  # fmt: skip


def beat(rescue_age_s: float | None, other_age_s: float | None, settings: Settings) -> Finding:
    """Whether somebody schedules. The rescue is made up for by workers; ``other_age_s``: of a job that is not."""
    limit_s = max(3 * settings.outbox_interval_s, 30.0)
    if other_age_s is not None and other_age_s <= limit_s:
        return Finding("beat", "ok", f"scheduled jobs are on time: {other_age_s:.0f} s since the last, or the start")
    since = "never" if other_age_s is None else f"not for {other_age_s:.0f} s"
    alone = rescue_age_s is not None and rescue_age_s < _NOBODY_S
    return Finding(
        "beat", "warning", f"no scheduled job ran by beat, {since}: beat is missing, or no worker takes its jobs",
        "delayed",
        f"lost runs are found {3 * settings.rescue_interval_s:g} s late"
        + (" by the workers, who stand in" if alone else "")
        + "; orphaned servers are not deleted and cost money, old rows are not pruned, lost nodes not recovered",
        None, "run one: taskflow up does, or the line beat of the Procfile",
    )  # fmt: skip


def workers(rescue_age_s: float | None, settings: Settings) -> Finding:
    """Whether a worker lives: each makes up for a rescue that is late, so one that is very late says that none does."""
    limit_s = max(_NOBODY_S, 6 * settings.rescue_interval_s)
    if rescue_age_s is not None and rescue_age_s <= limit_s:
        return Finding("workers", "ok", f"one worked {rescue_age_s:.0f} s ago")
    since = "ever" if rescue_age_s is None else f"for {rescue_age_s:.0f} s"
    return Finding(
        "workers", "error", f"no worker did anything {since}", "delayed",
        "tasks are taken and wait; deadlines run on, so a callback that nobody looks at may come out as a timeout. "
        "Nothing is lost",
        None, "start one: taskflow up does, or the line worker of the Procfile",
    )  # fmt: skip


def alarms(late: int, oldest_s: float, settings: Settings) -> Finding:
    """Alarms that are overdue by more than ``alarm_overdue_s``."""
    if not late:
        return Finding("alarms", "ok", f"none is later than {settings.alarm_overdue_s:g} s")
    return Finding(
        "alarms", "warning", f"{late} are overdue, the oldest by {oldest_s:.0f} s", "delayed",
        "that many tasks stand still: there are too few workers, or none; they go on in the order of their alarms",
        None, "start more workers, or raise TASKFLOW_WORKER_CONCURRENCY",
    )  # fmt: skip


def callback_address(url: str, *, remote: bool, fault: str, settings: Settings) -> Finding:
    """Whether nodes can say that they are ready and done. ``fault``: why it did not answer here, empty when it did."""
    wait_s = settings.workspace_ready_timeout_s
    if remote and (not url or is_loopback(url)):
        return Finding(
            "callback address", "error", f"{url or 'none'}: nodes on other machines can't reach it", "delayed",
            "their agents report to nobody: each node fails as never ready, and what was bought for it is paid for",
            settings.agent_ready_timeout_s, "set TASKFLOW_PUBLIC_URL to an address that the nodes reach",
        )  # fmt: skip
    if fault:
        return Finding(
            "callback address", "warning", f"{url} does not answer from here: {fault}", "delayed",
            "a callback that gets lost is asked for once at the step's limit; until then its task waits. Agents keep "
            "what they have to say and repeat it, so a result is late, not lost",
            wait_s, "start the web process, or correct TASKFLOW_PUBLIC_URL",
        )  # fmt: skip
    return Finding("callback address", "ok", f"{url} answers")


def disk(free_bytes: int, total_bytes: int, where: str) -> Finding:
    """Room where the data directory lies."""
    says = f"{free_bytes / 1024**3:.1f} of {total_bytes / 1024**3:.1f} GiB free at {where}"
    if free_bytes >= _DISK_LOW_BYTES:
        return Finding("disk", "ok", says)
    return Finding(
        "disk", "error" if free_bytes < _DISK_LOW_BYTES / 10 else "warning", says, "delayed",
        "when it is full an embedded database and Redis refuse writes: submissions are refused, tasks under way stand "
        "still until there is room; sessions on this host can't write either",
        None, "make room; TASKFLOW_PRUNE_AFTER_S says how long logs are kept",
    )  # fmt: skip


def durability(what: str, value: str) -> Finding:
    """Whether a commit of the database survives a loss of power. ``what``: the database's own word for the setting."""
    says = f"{what} is {value}"
    if value.lower() in ("on", "full", "extra", "2", "3", "remote_apply", "remote_write", "local"):
        return Finding("database durability", "ok", f"{says}: what was committed survives a loss of power")
    return Finding(
        "database durability", "error", says, "lost",
        "a crash may lose the newest commits: a task that was accepted, or a step whose effect was done and is done again",
        1.0 if what == "synchronous_commit" else None, f"set {what} to on",
    )  # fmt: skip


def secret_key(given: bool, shared: bool) -> Finding:
    """Whether all hosts sign with one key."""
    if given or not shared:
        return Finding("secret key", "ok", "given" if given else "the data directory's own, of the one host")
    return Finding(
        "secret key", "warning", "the data directory's own, while the database may serve several hosts", "lost",
        "a host that signs with another key refuses callbacks, and can't read secrets of tasks that another one took",
        None, "set TASKFLOW_SECRET_KEY to the same value on every host",
    )  # fmt: skip


def is_loopback(url: str) -> bool:
    """Whether only this machine reaches it."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
