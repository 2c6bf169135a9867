"""The commands of who operates an installation: tokens, schema, doctor, settings, agent, the stack's own words."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import fakeredis
import pytest
import redis

from taskflow import agent as node_agent
from taskflow.bootstrap import bootstrap
from taskflow.cli import embedded, main
from taskflow.cli.problems import report
from taskflow.cli.render import Progress
from taskflow.db.migrate import upgrade
from taskflow.db.session import make_engine
from taskflow.errors import InfrastructureError, Unauthorized
from taskflow.settings import Settings, table
from taskflow.stack.data_dir import DataDir
from taskflow.stack.keeper import StackEvent
from tests.cli.conftest import Invoke
from tests.cli.fake_server import FakeServer
from tests.cli.test_client import make_info


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file as ``taskflow db upgrade`` leaves it."""
    path = tmp_path_factory.mktemp("migrated") / "taskflow.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def database(tmp_path: Path, migrated: Path) -> Path:
    """The data directory with a database of this release."""
    data = tmp_path / "data"
    data.mkdir()
    return Path(shutil.copyfile(migrated, data / "taskflow.db"))


def test_a_token_is_made_listed_and_revoked(database: Path, invoke: Invoke) -> None:
    """The token is printed once, alone, so that a script can take it; lists never show it."""
    made = invoke("token", "create", "--name", "laptop", "--owner", "ada")
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    rows = json.loads(invoke("token", "list", "--json").stdout)["tokens"]
    assert [(row["name"], row["owner"], row["revoked_at"]) for row in rows] == [("laptop", "ada", None)]
    assert token not in invoke("token", "list").stdout
    assert invoke("token", "revoke", rows[0]["id"]).exit_code == 0
    assert invoke("token", "revoke", rows[0]["id"]).exit_code == 4


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("argv", "option"),
    [(("token", "create", "--name", "x", "--expires", "nan"), "--expires"),
     (("token", "create", "--name", "x", "--expires", "-5"), "--expires"),
     (("token", "create", "--name", "x", "--expires", "inf"), "--expires")],
)  # fmt: skip
def test_a_number_that_is_none_is_refused_with_its_option(invoke: Invoke, argv: tuple[str, ...], option: str) -> None:
    """What the library says of it would help nobody; nothing was made."""
    done = invoke(*argv)
    assert done.exit_code == 2, done.stderr
    assert option in done.stderr
    assert invoke("token", "list").stdout == "no tokens\n"


def test_resharding_makes_another_number_acceptable(
    database: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A start with another number is refused until the shards were changed; the old control state is gone then."""
    keys = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    settings = Settings(data_dir=str(database.parent), secret_key="k" * 32)
    bootstrap(settings, client=keys).check_installation()
    wider = dataclasses.replace(settings, shards=8)
    with pytest.raises(InfrastructureError, match="has 4 shards, TASKFLOW_SHARDS says 8"):
        bootstrap(wider, client=keys).check_installation()
    (database.parent / "valkey").mkdir()

    assert invoke("db", "reshard", "8").exit_code == 0

    bootstrap(wider, client=keys).check_installation()
    assert not (database.parent / "valkey").exists()
    assert invoke("db", "reshard", "0").exit_code == 2


def test_erasing_takes_the_control_state_and_nothing_else(fake_redis: redis.Redis, settings: Settings) -> None:
    """Other keys on the same server stay."""
    app = bootstrap(settings, client=fake_redis)
    for shard in range(6):
        fake_redis.set(f"{settings.key_prefix}:{{{shard}}}:incarnation", "x")
    fake_redis.set(f"{settings.key_prefix}:celery:alarm", "kept")
    fake_redis.set("other", "kept")
    assert app.control.erase() == 6
    assert sorted(fake_redis.keys()) == sorted([f"{settings.key_prefix}:celery:alarm".encode(), b"other"])


def test_the_embedded_stack_keeps_one_live_token(database: Path, invoke: Invoke) -> None:
    """Each start makes a token and revokes the former one; tokens that people made are left alone."""
    kept = invoke("token", "create", "--name", "mine").stdout.strip()
    settings = Settings(data_dir=str(database.parent), redis_url="redis://127.0.0.1:1/0")
    first, second = (embedded.make_token(settings, shared=False) for _ in range(2))
    app = bootstrap(settings)
    try:
        assert app.service.accounts.authenticate(second, "api")
        assert app.service.accounts.authenticate(kept, "api")
        with pytest.raises(Exception, match="not valid"):
            app.service.accounts.authenticate(first, "api")
        # On a database that several machines share, a start revokes the token of its own place only.
        shared = embedded.make_token(settings, shared=True)
        embedded.make_token(settings, shared=False)
        assert app.service.accounts.authenticate(shared, "api")
    finally:
        app.close()


def test_the_stacks_token_of_an_earlier_release_is_revoked_too(database: Path, invoke: Invoke) -> None:
    """It had another name."""
    former = invoke("token", "create", "--name", "cli (embedded)").stdout.strip()
    settings = Settings(data_dir=str(database.parent), redis_url="redis://127.0.0.1:1/0")
    embedded.make_token(settings, shared=False)
    app = bootstrap(settings)
    try:
        with pytest.raises(Unauthorized):
            app.service.accounts.authenticate(former, "api")
    finally:
        app.close()


def test_a_browser_stays_signed_in_over_a_start_of_the_embedded_stack(database: Path, invoke: Invoke) -> None:
    """It goes on with the new token. One that is signed in with a token that a person revokes does not."""
    mine = json.loads(invoke("token", "create", "--name", "mine", "--json").stdout)
    settings = Settings(data_dir=str(database.parent), redis_url="redis://127.0.0.1:1/0")
    first = embedded.make_token(settings, shared=False)
    app = bootstrap(settings)
    try:
        browsers = app.service.browsers
        signed_in, other = (browsers.sign_in(token, "test") for token in (first, mine["token"]))
        for _ in range(2):
            last = embedded.make_token(settings, shared=False)
            caller = browsers.authenticate(signed_in.secret).caller
            assert caller.token_id == app.service.accounts.authenticate(last, "api").token_id
        assert browsers.authenticate(other.secret).caller.token_id == mine["id"]
        app.service.accounts.revoke_token(mine["id"])
        with pytest.raises(Unauthorized):
            browsers.authenticate(other.secret)
    finally:
        app.close()


@pytest.mark.parametrize("argv", [("token", "list"), ("quota", "list"), ("metrics", "--token"), ("nodes", "audit")])
def test_a_directory_without_a_database_does_not_become_an_installation(
    invoke: Invoke, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    """A mistyped TASKFLOW_DATA_DIR is said, and neither a key nor a database is made in it."""
    done = invoke(*argv)
    assert done.exit_code == 3
    assert "TASKFLOW_DATA_DIR" in done.stderr
    assert not (tmp_path / "data").exists()


def test_an_old_schema_is_refused_with_the_remedy(invoke: Invoke, tmp_path: Path) -> None:
    """Without migrations, ``token`` says what to run; after ``db upgrade``, which may be repeated, it works."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "taskflow.db").touch()
    refused = invoke("token", "list")
    assert refused.exit_code == 1
    assert "taskflow db upgrade" in refused.stderr
    assert invoke("db", "upgrade").exit_code == 0
    assert json.loads(invoke("db", "upgrade", "--json").stdout)["revision"]
    assert invoke("token", "list").stdout == "no tokens\n"


def test_doctor_names_what_is_broken(database: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that does not answer is an error row and exit code 1; its password is not shown."""
    assert invoke("doctor").exit_code == 3
    monkeypatch.setenv("TASKFLOW_REDIS_URL", "redis://:pa55word@127.0.0.1:1/0")
    done = invoke("doctor", "--json")
    assert done.exit_code == 1
    states = {row["check"]: row["state"] for row in json.loads(done.stdout)["checks"]}
    assert {name: states[name] for name in ("database", "migrations", "redis")} == {
        "database": "ok", "migrations": "ok", "redis": "error",
    }  # fmt: skip
    assert "callback address" in states  # what can be looked at is
    assert "pa55word" not in done.output + invoke("doctor").output


def test_settings_say_where_values_come_from(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of the table is there, with its source; the values of secrets are not."""
    monkeypatch.setenv("TASKFLOW_SECRET_KEY", "sesame")
    monkeypatch.setenv("TASKFLOW_PORT", "9000")
    monkeypatch.setenv("TASKFLOW_URL", "https://ada:sesame@proxy.example")
    done = invoke("settings", "--json")
    rows = {row["variable"]: row for row in json.loads(done.stdout)["settings"]}
    assert list(rows) == [row.env for row in table()]
    assert (rows["TASKFLOW_PORT"]["value"], rows["TASKFLOW_PORT"]["source"]) == (9000, "environment")
    assert rows["TASKFLOW_FLOWER_PORT"]["source"] == "default"
    text = invoke("settings").stdout
    assert "TASKFLOW_SECRET_KEY" in text
    assert "sesame" not in done.output + text


def test_a_wrong_setting_is_named(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, and once what is wrong with which variable."""
    monkeypatch.setenv("TASKFLOW_PORT", "eighty")
    done = invoke("list")
    assert done.exit_code == 2
    assert done.stderr == "error: wrong settings: TASKFLOW_PORT: 'eighty' is no whole number from 0 to 65535\n"


def test_up_names_the_busy_port(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started: which port, and which variable changes it."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        monkeypatch.setenv("TASKFLOW_PORT", str(port))
        done = invoke("up", "--no-flower")
    assert done.exit_code == 1
    assert f"port {port}" in done.stderr
    assert "TASKFLOW_PORT" in done.stderr


def test_up_names_the_pipeline_that_can_not_be_used(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything is started, once: the setting, its entry, why, and what to do."""
    monkeypatch.setenv("TASKFLOW_PIPELINES", "no_such_shop.pipelines:order")
    done = invoke("up", "--no-flower")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "error: a pipeline can't be used: TASKFLOW_PIPELINES: no_such_shop.pipelines:order: "
        "ModuleNotFoundError: No module named 'no_such_shop'",
        f"  is the directory that holds it in PYTHONPATH, or its package installed for {sys.executable}?",
    ]
    assert not (tmp_path / "data").exists()


def test_up_says_where_things_are_and_no_secret(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, server: FakeServer, tmp_path: Path
) -> None:
    """The processes, the addresses, where Flower's password lies, the data directory; in JSON too."""
    info = make_info(server.url, server.token)
    info = type(info)(
        **{**vars(info), "flower_url": "http://127.0.0.1:2", "flower_user": "u", "flower_password": "pw!"}
    )

    class Supervisor:
        settings = Settings(data_dir=str(tmp_path / "data"))
        data_dir = DataDir(settings)

        def run_forever(self, on_ready: Callable[[object], None]) -> None:
            on_ready(info)

    monkeypatch.setattr(embedded, "make_supervisor", lambda *args, **kwargs: Supervisor())
    done = invoke("up")
    assert done.exit_code == 0, done.output
    for said in (server.url, "http://127.0.0.1:2", "stack.json", str(tmp_path / "data"), "Ctrl-C stops"):
        assert said in done.stdout
    assert done.stdout.count(f"{server.url}/login?code=") == 1
    as_json = invoke("up", "--json")
    assert json.loads(as_json.stdout)["url"] == server.url
    for output in (done.output, as_json.output):
        assert "pw!" not in output
        assert server.token not in output
    assert "/login" not in as_json.output


def test_up_goes_on_when_there_is_no_link(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    """A stack that is up is up: the line then says how to get one."""
    server.refuse["POST", "/api/sign-in-links"] = (500, {"error": {"code": "internal", "message": "a fault"}})
    assert embedded.sign_in_line(make_info(server.url, server.token)).startswith("sign in  taskflow login")


def test_processes_are_told_with_their_durations(capsys: pytest.CaptureFixture[str]) -> None:
    """Ready: name, how long it took, process id. Died: why, and when it is started again."""
    times = iter([0.0, 1.5, 2.0])
    tell = embedded.process_lines(Progress(), lambda: next(times))
    tell(StackEvent("starting", "web", 77))
    tell(StackEvent("ready", "web", 77))
    tell(StackEvent("died", "web", None, "SIGKILL", 0.2))
    said = capsys.readouterr()
    assert said.out.split() == ["web", "1.5", "s", "pid", "77"]
    assert said.err == "warning: web: died: SIGKILL; started again in 0.2 s\n"


def test_the_agent_gets_its_arguments(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything after ``agent`` is the node agent's, ``--help`` included, and its status is the exit code."""
    seen: list[list[str]] = []
    codes: list[int] = []

    def run(argv: list[str]) -> int:
        seen.append(argv)
        return 7

    monkeypatch.setattr(node_agent, "main", run)
    monkeypatch.setattr(os, "_exit", codes.append)
    invoke("agent", "--root", "/x", "--help")
    assert (seen, codes) == ([["--root", "/x", "--help"]], [7])


def test_help_documents_the_exit_codes(invoke: Invoke) -> None:
    """The top help lists every command and what the exit codes mean; ``--version`` says the version."""
    done = invoke("--help")
    for said in ("run-draft", "nodehost", "no server", "130"):
        assert said in done.stdout
    assert invoke("--version").stdout.startswith("taskflow, version 0.")
    assert invoke("no-such-command").exit_code == 2


def test_main_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """The console script's function returns the code, for ``sys.exit``."""
    assert main(["list"]) == 3
    assert main(["--version"]) == 0
    assert capsys.readouterr().err.startswith("error: no server (")


def test_errors_have_one_shape(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, the advice below, no traceback, no password of a URL, whatever was raised; DEBUG shows the traceback."""
    assert report(InfrastructureError("redis://:pw@host is away", advice="start it")) == 1
    assert capsys.readouterr().err == "error: redis://:***@host is away\n  start it\n"
    assert report(ValueError("odd")) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: odd (ValueError)"
    assert report(KeyboardInterrupt()) == 130
    monkeypatch.setenv("TASKFLOW_LOG_LEVEL", "DEBUG")
    report(ValueError("odd"))
    assert "ValueError: odd" in capsys.readouterr().err


def test_the_token_of_the_metrics_is_printed_alone(database: Path, invoke: Invoke) -> None:
    """So that it can be written to a file; each time the same, until the secret key is another."""
    first, again = invoke("metrics", "--token"), invoke("metrics", "--token")
    assert (first.exit_code, first.stdout) == (0, again.stdout)
    assert len(first.stdout.strip().splitlines()) == 1
