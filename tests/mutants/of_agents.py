"""Faults of the node's agent: workspaces, sessions, isolation, signatures, the dead-man time."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_AGENT_WORKSPACES = "taskflow/agent/workspaces.py"
_SHIM = "taskflow/agent/shim.py"
_CONTRACT = ("tests/agent/test_contract.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "hidden-processes-live", "a daemon without marks goes on as a user whose workspace is over",
        (Edit(
            "taskflow/agent/killing.py",
            "return users.end_processes(confinement.uid) if confinement.uid is not None else []", "return []",
        ),),
        ("tests/agent/test_isolation.py::test_a_killed_shim_leaves_nothing_of_the_user",),
    ),
    Mutant(
        "other-work-than-told", "the outcome names one commit and another one is pushed",
        (Edit("taskflow/agent/handover.py", "    if came != head:\n", "    if False:\n"),),
        ("tests/agent/test_handover.py::test_another_commit_than_was_named_is_refused",),
    ),
    Mutant(
        "engine-as-the-task-likes", "a task's LD_PRELOAD is code in the engine's client, which is root",
        (Edit(
            "taskflow/agent/containers.py", "return Launch(argv, client_env(os.environ), stdin, COMMON)",
            "return Launch(argv, {**client_env(os.environ), **env}, stdin, COMMON)",
        ),),
        ("tests/agent/test_containers.py::test_neither_values_nor_the_tasks_variables_reach_the_engine",),
    ),
    Mutant(
        "no-tombstones", "a paused worker makes a workspace again that was deleted",
        (Edit(
            _AGENT_WORKSPACES, "            self._refuse_deleted(workspace_id)\n            content = digest",
            "            content = digest",
        ),),
        _CONTRACT,
    ),
    Mutant(
        "tombstones-for-the-known-only", "a creation that comes after its own cleanup makes a workspace for ever",
        (Edit(
            _AGENT_WORKSPACES, "            self._store.bury(workspace_id, fence)\n",
            "            if known is not None:\n                self._store.bury(workspace_id, fence)\n",
        ),),
        _CONTRACT,
    ),
    Mutant(
        "tombstone-after-the-removal", "an agent that dies while it deletes forgets that it was told to",
        (Edit(
            _AGENT_WORKSPACES,
            "            self._store.bury(workspace_id, fence)\n            self._remove(workspace_id)\n",
            "            self._remove(workspace_id)\n            self._store.bury(workspace_id, fence)\n",
        ),),
        ("tests/agent/test_survival.py::test_an_agent_killed_while_it_deletes_goes_on_deleting",),
    ),
    Mutant(
        "agent-ignores-fences", "a worker whose run went on elsewhere starts a session",
        (Edit(_AGENT_WORKSPACES, 'if payload["fence"] < workspace.fence:', 'if payload["fence"] < -1:'),), _CONTRACT,
    ),
    Mutant(
        "session-started-again", "a repeated request runs the command a second time",
        (
            Edit("taskflow/agent/sessions.py", '            if known.status != "starting":\n', "            if False:\n"),
            Edit(_SHIM, "os.O_WRONLY | os.O_CREAT | os.O_EXCL", "os.O_WRONLY | os.O_CREAT"),
        ),
        _CONTRACT,
    ),
    Mutant(
        "session-begun-again", "a command is run again by an agent that does not know that it was started",
        (Edit(_SHIM, "os.O_WRONLY | os.O_CREAT | os.O_EXCL", "os.O_WRONLY | os.O_CREAT"),),
        ("tests/agent/test_shim.py",),
    ),
    Mutant(
        "agent-counts-no-slots", "a node takes more than it has room for",
        (Edit("taskflow/agent/store.py", "            if live >= slots:\n", "            if False:\n"),), _CONTRACT,
    ),
    Mutant(
        "outcome-sent-once", "an outcome that could not be delivered is dropped",
        (Edit(
            "taskflow/agent/outbox.py",
            "            self._store.postpone(delivery.seq, time.time() + wait_s(delivery.attempts))\n",
            "            self._store.delivered(delivery.seq)\n",
        ),),
        ("tests/agent/test_survival.py",),
    ),
    Mutant(
        "agent-takes-any-body", "who overhears a request can send another body with its signature",
        (Edit("taskflow/agent/api.py", "        signing.check_body(claim, request.get_data())\n", ""),),
        ("tests/agent/test_network.py::test_a_signature_is_good_for_one_request",),
    ),
    Mutant(
        "outcome-lost-to-a-clock", "a node whose clock is wrong has its outcome refused for good",
        (Edit("taskflow/agent/wire.py", "        if answer.status == 401 and abs(", "        if False and abs("),),
        ("tests/agent/test_network.py::test_a_clock_that_jumps_costs_no_outcome",),
    ),
    Mutant(
        "token-gone-back-to", "a repeated create brings back a token that was replaced",
        (Edit(
            "taskflow/agent/store.py", "WHERE id = ? AND token_generation <= ?", "WHERE id = ? AND 0 <= ?",
        ),),
        ("tests/agent/test_tokens.py::test_a_repeated_create_does_not_bring_an_old_token_back",),
    ),
    Mutant(
        "dead-man-waits-anew", "an agent that is restarted while cut off begins its wait again",
        (Edit("taskflow/agent/dead_man.py", 'if kept is not None and kept["boot_id"] == self._boot_id:', "if False:"),),
        ("tests/agent/test_dead_man.py::test_a_restart_of_the_agent_does_not_begin_the_wait_again",),
    ),
    Mutant(
        "dead-man-counts-from-the-answer", "a node's sessions live longer than the control plane waits for them",
        (Edit("taskflow/agent/dead_man.py", "max(self._contact, sent_at)", "self._ticks()"),),
        ("tests/agent/test_dead_man.py::test_the_wait_begins_when_the_heartbeat_was_sent",),
    ),
    Mutant(
        "machine-of-somebodys-shut-down", "a machine that is not the node's alone is powered off by one answer",
        (Edit("taskflow/agent/bootstrap.py", '            if said.get("power_off"):\n', "            if True:\n"),),
        ("tests/agent/test_bootstrap.py",),
    ),
    Mutant(
        "heartbeats-end-with-one", "a disk that can't be read for a moment costs the node with all that runs on it",
        (Edit("taskflow/agent/heartbeat.py", "            return Answer(0, {})\n", "            raise\n"),),
        ("tests/agent/test_heartbeat.py",),
    ),
    Mutant(
        "claim-made-anew", "a server whose first answer was lost is refused as a copy of itself",
        (Edit("taskflow/agent/bootstrap.py", "    if kept is not None:\n", "    if kept == {}:\n"),),
        ("tests/agent/test_bootstrap.py::test_a_crash_at_any_line_is_lived_through",),
    ),
    Mutant(
        "secrets-in-the-log", "what a command prints of its secrets is sent and stored",
        (Edit(
            "taskflow/agent/masking.py",
            "        self._secrets = sorted((value.encode(\"utf-8\", \"surrogateescape\") for value in values), key=len)\n",
            "        self._secrets: list[bytes] = []\n",
        ),),
        ("tests/agent/test_output.py",),
    ),
)  # fmt: skip
