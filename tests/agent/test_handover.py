"""What an isolated workspace hands back, when the other side is as hostile as it can be: its git is not git."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow.agent import users
from taskflow.agent.confinement import Confinement
from taskflow.agent.finish import FinishOrder, finish
from taskflow.agent.git import Deadline, Git, JobFailure
from taskflow.agent.handover import take
from taskflow.agent.provision import ProvisionOrder, provision
from tests.agent.rig import git, make_origin

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def isolate() -> bool:
    """The user has to reach its tree."""
    return True


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Confinement]:
    """A user of this test's own."""
    proof = tmp_path / "proof"
    uid = users.take(proof, lambda number: proof.touch())
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, uid, uid)
    yield Confinement(uid=uid, home=str(home), tmp=str(home))
    users.end_processes(uid)


class Workspace:
    """A prepared workspace: its tree and its clean clone."""

    def __init__(self, tmp_path: Path, own: Confinement) -> None:
        self.origin = make_origin(tmp_path / "origin")
        (tmp_path / "ws").mkdir(mode=0o711)
        (tmp_path / "agent-home").mkdir()
        self.repo, self.clean, self.own = tmp_path / "ws/repo", tmp_path / "ws/clean", own
        self.env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "agent-home")}
        self.tree_env = {"PATH": os.defpath, "HOME": str(own.home)}
        self.clone: dict[str, object] = {}
        self.prepare()

    def prepare(self) -> None:
        """Clone, and give the tree to the user."""
        order = ProvisionOrder(
            repo=str(self.repo), repository=str(self.origin), branch=None, output_branch="out", setup_command=None,
            git_env=self.env, setup_env=self.tree_env, timeout_s=60, clean=str(self.clean), tree_env=self.tree_env,
            confinement=self.own,
        )  # fmt: skip
        self.clone = provision(order)

    def finish(self, **changes: object) -> dict[str, object]:
        """Commit and push what is in the tree."""
        values: dict[str, object] = {
            "repo": str(self.repo), "clone": self.clone, "output_branch": "out", "commit_message": "work", "push": True,
            "git_env": self.env, "timeout_s": 60, "clean": str(self.clean), "tree_env": self.tree_env,
            "confinement": self.own, **changes,
        }  # fmt: skip
        return finish(FinishOrder(**values))  # type: ignore[arg-type]

    def take(self, script: str, head: str) -> None:
        """Take over what a program that the workspace calls git says and writes."""
        programs = Path(str(self.own.home)) / "bin"
        programs.mkdir()
        (programs / "git").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "git").chmod(0o755)
        Path(str(self.own.home)).chmod(0o711)
        tree = Git(self.repo, {**self.tree_env, "PATH": f"{programs}:{os.defpath}"}, Deadline(30), self.own)
        take(tree, Git(self.clean, self.env, Deadline(30)), str(self.clone["base_commit"]), head)

    def write(self, name: str, data: bytes) -> None:
        """A file of the user's in the tree."""
        path = self.repo / name
        path.write_bytes(data)
        assert self.own.uid is not None
        os.chown(path, self.own.uid, self.own.uid)


@pytest.fixture
def workspace(tmp_path: Path, own: Confinement) -> Workspace:
    """A prepared workspace."""
    return Workspace(tmp_path, own)


def refs(repo: Path) -> str:
    """What a repository points at."""
    return git(repo, "for-each-ref")


def test_the_tree_is_the_users_and_the_clean_clone_is_not(workspace: Workspace) -> None:
    """All of the one belongs to the user, nothing of the other."""
    uid = workspace.own.uid
    assert {path.lstat().st_uid for path in (workspace.repo, *workspace.repo.rglob("*"))} == {uid}
    assert {path.lstat().st_uid for path in (workspace.clean, *workspace.clean.rglob("*"))} == {0}
    assert (workspace.repo / "README").exists()
    assert workspace.repo.stat().st_mode & 0o077 == 0
    assert workspace.clean.stat().st_mode & 0o077 == 0


def test_work_beyond_the_limit_is_refused_and_leaves_no_file(workspace: Workspace) -> None:
    """Not one byte more than the limit is written on the agent's side."""
    workspace.write("huge", os.urandom(300_000))
    result = workspace.finish(work_bytes_max=100_000)
    assert result["error"] == {"code": "too_large", "message": "more than 100000 bytes: git -c", "phase": "commit"}
    assert (result["pushed"], result["commit"]) == (False, None)
    assert not (workspace.clean / "work.bundle").exists()
    assert "out" not in refs(workspace.origin)
    assert workspace.finish()["pushed"] is True


@pytest.mark.parametrize(
    "script",
    [
        "echo no bundle at all",
        "true",
        "cat /dev/zero",
        "exit 3",
        "printf '# v2 git bundle\\n%s HEAD\\n\\nPACKgarbage' 1111111111111111111111111111111111111111",
    ],
)
def test_what_is_no_bundle_is_refused(workspace: Workspace, script: str) -> None:
    """Garbage, nothing, endless zeros, failure, a damaged pack: an error of the commit, and no ref moves."""
    before = refs(workspace.clean)
    with pytest.raises(JobFailure) as caught:
        workspace.take(f"ulimit -f 2000; {script}", "1" * 40)
    assert caught.value.phase == "commit"
    assert refs(workspace.clean) == before
    assert not (workspace.clean / "work.bundle").exists()


def test_another_commit_than_was_named_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    """A good bundle with something else in it than what the outcome would tell."""
    other = make_origin(tmp_path / "other")
    bundle = tmp_path / "other.bundle"
    git(other, "commit", "--quiet", "--allow-empty", "--message", "another")
    git(other, "bundle", "create", "--quiet", str(bundle), "HEAD")
    bundle.chmod(0o644)
    with pytest.raises(JobFailure, match="what it handed over is"):
        workspace.take(f"cat {bundle}", "1" * 40)


@pytest.mark.parametrize("head", ["--upload-pack=touch /tmp/x", "HEAD", "", "1" * 39, "refs/heads/main"])
def test_a_head_that_is_no_commits_name_is_refused(workspace: Workspace, head: str) -> None:
    """It is the other side's word, so it is never an option or a name."""
    with pytest.raises(JobFailure, match="not a commit"):
        workspace.take("true", head)


def test_the_clean_clones_file_is_never_one_that_lay_there(workspace: Workspace, tmp_path: Path) -> None:
    """A link in the place of the file that the work is written to is replaced, not followed."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (workspace.clean / "work.bundle").symlink_to(victim)
    workspace.write("work", b"hi\n")
    assert workspace.finish()["pushed"] is True
    assert victim.read_text() == "untouched"


def test_going_back_behind_the_base_is_what_it_is(workspace: Workspace) -> None:
    """HEAD at a commit that the clone has anyway: nothing has to be handed over."""
    first = git(workspace.origin, "rev-parse", "HEAD")
    git(workspace.origin, "commit", "--quiet", "--allow-empty", "--message", "second")
    workspace.prepare()
    tree = Git(workspace.repo, workspace.tree_env, Deadline(30), workspace.own)
    tree.must("reset", "--hard", "--quiet", "HEAD~1", phase="commit")
    result = workspace.finish()
    assert (result["commit"], result["pushed"], result["error"]) == (first, True, None)
