"""From options to the body of a submission: what is taken, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskflow.cli.repository import merge_command, resolve
from tests.cli.conftest import Invoke, git
from tests.cli.fake_server import FakeServer, make_task


def test_every_option_reaches_the_server(
    connected: FakeServer, invoke: Invoke, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body of the submission says what the command line said, dashes of the command included."""
    monkeypatch.setenv("FROM_ME", "mine")
    monkeypatch.setenv("KEY", "s3cret")
    done = invoke(
        "submit", "--repo", str(repository), "--branch", "b", "--setup", "make deps", "--env", "A=1=2", "--env",
        "FROM_ME", "--secret", "KEY", "--no-push", "--time-limit", "90", "--title", "T", "--label", "k=v", "--node",
        "node-1", "--or-other-node", "--priority", "-3", "--location", "fsn1", "--location-policy", "prefer", "--",
        "sh", "-c", "true --json",
    )  # fmt: skip
    assert (done.exit_code, done.stdout) == (0, "task-1\n"), done.output
    assert connected.asked("POST", "/api/tasks")[0].body == {
        "repository": str(repository), "branch": "b", "command": ["sh", "-c", "true --json"],
        "setup_command": ["sh", "-c", "make deps"], "env": {"A": "1=2", "FROM_ME": "mine"},
        "secrets": {"KEY": "s3cret"}, "push": False, "time_limit_s": 90.0, "title": "T", "labels": {"k": "v"},
        "node_id": "node-1", "allow_node_fallback": True, "priority": -3,
        "resources": {"location": "fsn1", "location_policy": "prefer"}, "start": True,
    }  # fmt: skip


def test_options_after_the_command_belong_to_it(connected: FakeServer, invoke: Invoke, repository: Path) -> None:
    """Without ``--`` too, what follows the first word of the command is the command's."""
    assert invoke("submit", "--repo", str(repository), "sh", "-c", "x", "--draft").exit_code == 0
    body = connected.asked("POST", "/api/tasks")[0].body
    assert (body["command"], body["start"]) == (["sh", "-c", "x", "--draft"], True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--env", "1A=x"], "--env"),
        (["--env", "TASKFLOW_X=1"], "--env"),
        (["--env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE"),
        (["--secret", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE"),
        (["--secret", "HOME", "--env", "HOME"], "--secret"),
        (["--time-limit", "0"], "--time-limit"),
        (["--time-limit", "nan"], "--time-limit"),
        (["--label", "novalue"], "--label"),
        (["--priority", "101"], "--priority"),
        (["--or-other-node"], "--or-other-node"),
    ],
)
def test_a_wrong_option_is_named(
    connected: FakeServer, invoke: Invoke, repository: Path, options: list[str], named: str
) -> None:
    """Wrong input is a usage error that names the option, and nothing is submitted."""
    done = invoke("submit", "--repo", str(repository), *options, "--", "true")
    assert done.exit_code == 2
    assert named in done.stderr
    assert "Traceback" not in done.output
    assert connected.requests == []


def test_a_command_is_needed(connected: FakeServer, invoke: Invoke, repository: Path) -> None:
    """Nothing, or an empty program, is no command."""
    assert invoke("submit", "--repo", str(repository), "--").exit_code == 2
    assert invoke("submit", "--repo", str(repository), "--", " ").exit_code == 2
    assert connected.requests == []


def test_a_secret_on_the_command_line_is_refused_unseen(
    connected: FakeServer, invoke: Invoke, repository: Path
) -> None:
    """``--secret NAME=VALUE`` is refused, and the refusal does not repeat the value."""
    done = invoke("submit", "--repo", str(repository), "--secret", "KEY=hunter2", "--", "true")
    assert done.exit_code == 2
    assert "--secret" in done.stderr
    assert "hunter2" not in done.output


def test_field_errors_of_the_server_name_the_option(connected: FakeServer, invoke: Invoke, repository: Path) -> None:
    """What the server finds wrong is shown under the option's name, one line each."""
    fields = {"branch": "is not a branch name", "env.FOO": "must be valid Unicode"}
    body = {"error": {"code": "invalid", "message": "the request does not fit", "fields": fields, "advice": "mend it"}}
    connected.refuse[("POST", "/api/tasks")] = (422, body)
    done = invoke("submit", "--repo", str(repository), "--", "true")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"error: submitting the task (POST {connected.url}/api/tasks): the request does not fit",
        "  mend it",
        "  --branch: is not a branch name",
        "  --env FOO: must be valid Unicode",
    ]


# --- the repository


def test_a_local_path_becomes_the_top_of_its_work_tree(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a subdirectory, by a relative path, the whole repository is meant, at its current branch."""
    (repository / "sub").mkdir()
    monkeypatch.chdir(repository / "sub")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a git hook
    found = resolve(".")
    assert (found.address, found.branch, found.uncommitted) == (str(repository), "main", ())


def test_a_detached_head_has_no_branch(repository: Path) -> None:
    """Nobody guesses a branch for a detached HEAD; one that is named wins."""
    git(repository, "checkout", "-q", "--detach")
    assert resolve(str(repository)).branch is None
    assert resolve(str(repository), "other").branch == "other"


def test_a_directory_that_is_no_repository_is_refused_at_once(
    connected: FakeServer, invoke: Invoke, tmp_path: Path
) -> None:
    """An existing directory without git, one without a commit, and a file are usage errors naming ``--repo``."""
    plain, empty, file = tmp_path / "plain", tmp_path / "empty", tmp_path / "file"
    plain.mkdir()
    empty.mkdir()
    file.touch()
    git(empty, "init", "-q")
    for path in (plain, empty, file):
        done = invoke("submit", "--repo", str(path), "--", "true")
        assert done.exit_code == 2
        assert "--repo" in done.stderr
        assert str(path) in done.stderr
    assert connected.requests == []


def test_a_path_that_does_not_exist_is_left_to_the_node(
    connected: FakeServer, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is submitted as an absolute path, so that the node's git says what is wrong."""
    monkeypatch.chdir(tmp_path)
    assert invoke("submit", "--repo", "gone/../missing", "--", "true").exit_code == 0
    body = connected.asked("POST", "/api/tasks")[0].body
    assert body["repository"] == str(tmp_path / "missing")
    assert "branch" not in body


@pytest.mark.parametrize("address", ["https://host/a.git", "git@host:a/b.git", "ssh://host/a", "file:///srv/a"])
def test_an_address_is_submitted_as_it_is(address: str) -> None:
    """URLs and scp-like addresses are not looked at here."""
    found = resolve(address)
    assert (found.address, found.branch, found.is_local) == (address, None, False)


def test_uncommitted_changes_are_warned_about(connected: FakeServer, invoke: Invoke, repository: Path) -> None:
    """New, changed and renamed files are named on standard error, which leaves standard output to the id."""
    (repository / "README").write_text("changed\n", encoding="utf-8")
    (repository / "new file").touch()
    done = invoke("submit", "--repo", str(repository), "--", "true")
    assert done.stdout == "task-1\n"
    assert done.stderr.startswith(f"warning: {repository} has uncommitted changes")
    assert "README" in done.stderr
    assert "new file" in done.stderr
    git(repository, "add", "--all")
    git(repository, "commit", "-q", "-m", "two")
    git(repository, "mv", "README", "READ ME")
    assert resolve(str(repository)).uncommitted == ("READ ME",)
    git(repository, "commit", "-q", "-m", "three")
    assert invoke("submit", "--repo", str(repository), "--", "true").stderr == ""


def test_the_merge_command_fits_the_repository(repository: Path, tmp_path: Path) -> None:
    """Local: merged in place. Bare or remote: fetched. Nothing pushed: no command."""
    result = {"output_branch": "taskflow/t-1", "commit": "c0ffee", "pushed": True}
    bare = tmp_path / "a bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(bare))

    def command(address: str, **changes: object) -> str | None:
        return merge_command(make_task(repository=address, result={**result, **changes}))

    assert command(str(repository)) == f"git -C {repository} merge taskflow/t-1"
    assert command(str(bare)) == f"git fetch '{bare}' taskflow/t-1 && git merge FETCH_HEAD"
    assert command("https://host/a.git") == "git fetch origin taskflow/t-1 && git merge FETCH_HEAD"
    assert command(str(repository), pushed=False) is None
    assert command(str(repository), commit=None) is None
