"""Settings: read from the environment, refused with a name when wrong, documented from one table."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from taskflow.errors import UsageError
from taskflow.settings import ENV_PREFIX, LADDER, Settings, table
from tests.support import settings_docs

ROOT = Path(__file__).parents[2]


def _as_env(values: dict[str, float]) -> dict[str, str]:
    return {ENV_PREFIX + name.upper(): repr(value) for name, value in values.items()}


def test_defaults_are_in_order() -> None:
    """Without any variable the defaults hold and pass the ladder."""
    assert Settings.from_env({}) == Settings()
    Settings().check_ladder()


def test_variables_are_read_by_their_type() -> None:
    """Each kind of value is read from its variable; other variables and empty ones are ignored."""
    read = Settings.from_env(
        {
            "TASKFLOW_LEASE_S": "2.5",
            "TASKFLOW_SHARDS": "8",
            "TASKFLOW_LOG_JSON": "Yes",
            "TASKFLOW_KEY_PREFIX": "tf",
            "TASKFLOW_PORT": "",
            "LEASE_S": "9",
            "TASKFLOW_NO_SUCH_SETTING": "1",
        }
    )
    assert read == dataclasses.replace(Settings(), lease_s=2.5, shards=8, log_json=True, key_prefix="tf")


@pytest.mark.parametrize("raw", ["1", "true", "YES", " on "])
def test_flag_is_on(raw: str) -> None:
    """The spellings of a flag that is on."""
    assert Settings.from_env({"TASKFLOW_LOG_JSON": raw}).log_json is True


@pytest.mark.parametrize("raw", ["0", "false", "NO", " off "])
def test_flag_is_off(raw: str) -> None:
    """The spellings of a flag that is off."""
    assert Settings.from_env({"TASKFLOW_LOG_JSON": raw}).log_json is False


@pytest.mark.parametrize(
    ("variable", "raw", "says"),
    [
        ("TASKFLOW_LEASE_S", "soon", "is no number of 0 or more"),
        ("TASKFLOW_LEASE_S", "-1", "is no number of 0 or more"),
        ("TASKFLOW_SHARDS", "2.5", "is no whole number of 0 or more"),
        ("TASKFLOW_SHARDS", "-4", "is no whole number of 0 or more"),
        ("TASKFLOW_PORT", "65536", "is no whole number from 0 to 65535"),
        ("TASKFLOW_FLOWER_PORT", "zzz", "is no whole number from 0 to 65535"),
        ("TASKFLOW_LOG_JSON", "maybe", "is neither 1, true, yes or on nor 0, false, no or off"),
    ],
)
def test_wrong_value_names_its_variable(variable: str, raw: str, says: str) -> None:
    """The error says which variable, which value and what was expected."""
    with pytest.raises(UsageError) as caught:
        Settings.from_env({variable: raw})
    assert set(caught.value.fields) == {variable}
    assert caught.value.message == f"wrong settings: {variable}: {raw!r} {says}"


@pytest.mark.parametrize(
    "raw",
    [
        "inf",
        "nan",
    ],
)
def test_duration_is_a_number(raw: str) -> None:
    """A limit that is no number or has no end is refused: every comparison with it would be silently wrong."""
    with pytest.raises(UsageError, match="TASKFLOW_LEASE_S"):
        Settings.from_env({"TASKFLOW_LEASE_S": raw})


@pytest.mark.parametrize("variable", ["TASKFLOW_WEB_PROCESSES", "TASKFLOW_WORKER_CONCURRENCY", "TASKFLOW_SHARDS"])
def test_what_nothing_works_without_is_there_once_at_least(variable: str) -> None:
    """With no process at all a stack would start, and answer nobody."""
    with pytest.raises(UsageError, match="must be at least 1") as caught:
        Settings.from_env({variable: "0"})
    assert set(caught.value.fields) == {variable}


@pytest.mark.parametrize(
    "raw", ["tasks.example", "//tasks.example", "https://", "http://[x", "https://a:port", "ftp://a"]
)
def test_a_public_address_that_is_none_is_refused(raw: str) -> None:
    """Browsers would show their cookie without TLS where its scheme is forgotten, and no agent would find it."""
    with pytest.raises(UsageError) as caught:
        Settings.from_env({"TASKFLOW_PUBLIC_URL": raw})
    assert set(caught.value.fields) == {"TASKFLOW_PUBLIC_URL"}
    with pytest.raises(UsageError):
        Settings.from_env({"TASKFLOW_FLOWER_URL": raw})
    assert Settings.from_env({"TASKFLOW_PUBLIC_URL": "HTTPS://Tasks.example:8443/"}).public_url


def test_all_wrong_values_are_named_at_once() -> None:
    """Two wrong variables are one error that names both."""
    with pytest.raises(UsageError) as caught:
        Settings.from_env({"TASKFLOW_LEASE_S": "x", "TASKFLOW_PORT": "y"})
    assert set(caught.value.fields) == {"TASKFLOW_LEASE_S", "TASKFLOW_PORT"}


def _above(name: str) -> set[str]:
    """All limits that have to be longer than this one."""
    outer = {longer for shorter, longer in LADDER if shorter == name}
    return outer.union(*(_above(longer) for longer in outer))


@pytest.mark.parametrize(("inner", "outer"), LADDER)
def test_ladder_names_the_two_that_disagree(inner: str, outer: str) -> None:
    """An inner limit as long as its outer one is refused, with both variables in the message."""
    # In order, whatever the defaults are. Then this one pair is made to disagree, and what is above the inner one is
    # moved out of its way.
    limits = {row.name: 100.0 - 10 * len(_above(row.name)) for row in table() if row.type is float}
    limits |= {"heartbeat_grace_s": 5.0, "provider_timeout_s": 10.0}  # come on top of an interval, and of themselves
    assert Settings.from_env(_as_env(limits)).lease_s == limits["lease_s"]
    limits |= {name: limits[name] + 1000 for name in _above(inner) - {outer}}
    limits[inner] = limits[outer]
    with pytest.raises(UsageError) as caught:
        Settings.from_env(_as_env(limits))
    for name in (inner, outer):
        assert f"{ENV_PREFIX}{name.upper()}=" in caught.value.message
    assert set(caught.value.fields) == {ENV_PREFIX + inner.upper()}


def test_a_task_runs_again_only_when_a_node_that_is_cut_off_has_had_time_to_end_its_sessions() -> None:
    """Ten seconds, of which five are a command's between SIGTERM and SIGKILL."""
    with pytest.raises(UsageError) as caught:
        Settings.from_env(_as_env({"dead_man_s": 300.0, "node_lost_s": 309.0}))
    assert "TASKFLOW_DEAD_MAN_S=300 must be at least 10 s shorter than TASKFLOW_NODE_LOST_S=309" in caught.value.message
    assert Settings.from_env(_as_env({"dead_man_s": 300.0, "node_lost_s": 310.0})).node_lost_s == 310.0


def test_a_node_is_unreachable_before_it_may_be_dead() -> None:
    """One interval and the grace come before the time after which its silence is a sign."""
    with pytest.raises(UsageError) as caught:
        Settings.from_env(_as_env({"heartbeat_interval_s": 50.0, "heartbeat_grace_s": 20.0}))
    rule = "TASKFLOW_HEARTBEAT_INTERVAL_S=50 must be at least 20 s (TASKFLOW_HEARTBEAT_GRACE_S) shorter than"
    assert f"{rule} TASKFLOW_HEARTBEAT_STALE_S=60" in caught.value.message


def test_a_purchase_that_is_begun_late_ends_before_anybody_looks_for_it() -> None:
    """A call may begin in the first half of the time to settle: two of its timeouts have to fit into that."""
    with pytest.raises(UsageError) as caught:
        Settings.from_env(_as_env({"provider_timeout_s": 31.0, "provider_settle_s": 60.0}))
    assert set(caught.value.fields) == {"TASKFLOW_PROVIDER_TIMEOUT_S"}


def test_data_path_is_per_user_by_default(tmp_path: Path) -> None:
    """An empty data directory means one of the user's own, a set one is taken as it is."""
    assert Settings(data_dir=str(tmp_path)).data_path == tmp_path
    assert Settings().data_path.is_absolute()
    assert Settings().data_path.name == "taskflow"


def test_secrets_are_marked() -> None:
    """What may hold a password or token is marked, so that it is not shown."""
    secret = {row.name for row in table() if row.secret}
    assert {"redis_url", "database_url", "token", "secret_key"} <= secret


def test_units_match_names() -> None:
    """A duration ends in _s and is in seconds; nothing else does."""
    assert [row.name for row in table() if row.name.endswith("_s") != (row.unit == "s")] == []


def test_reference_page_is_the_table() -> None:
    """docs/reference/settings.md holds every setting and is what the generator writes."""
    page = settings_docs.PAGE.read_text(encoding="utf-8")
    documented = re.findall(rf"^\| `({ENV_PREFIX}\w+)`", page, flags=re.MULTILINE)
    assert documented == [row.env for row in table()]
    assert page == settings_docs.render(), "stale: run python -m tests.support.settings_docs"


def test_every_setting_has_a_reader() -> None:
    """A setting that nobody reads is a promise that nobody keeps."""
    files = [file for room in ("taskflow", "web") for file in (ROOT / room).rglob("*.py") if file.name != "settings.py"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    own = (ROOT / "taskflow" / "settings.py").read_text(encoding="utf-8")
    read = [row.name for row in table() if re.search(rf"\b{row.name}\b", text) or f"self.{row.name}" in own]
    assert [row.name for row in table() if row.name not in read] == []
