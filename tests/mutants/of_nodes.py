"""Faults of nodes: buying and destroying them, judging lost ones, hosts that are reached over ssh."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_NODES = "taskflow/db/nodes.py"
_WORKSPACES = "taskflow/db/workspaces.py"
_PURCHASES = ("tests/nodes/test_purchases.py",)
_MACHINE = ("tests/nodes/test_machine.py",)
_SSH_HOST = "taskflow/nodes/providers/ssh_host.py"
_LAB = ("tests/nodes/test_ssh_provider.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "bought-without-looking", "a crash after buying buys again",
        (Edit(
            "taskflow/nodes/machine.py", "server = provider.find_by_label(node.label)\n", "server = None\n",
        ),),
        _MACHINE,
    ),
    Mutant(
        "intent-used-twice", "a purchase whose answer was lost is repeated before its server is listed",
        (Edit("taskflow/nodes/machine.py", "not (fresh or provider.creates_once)", "False"),), _PURCHASES,
    ),
    Mutant(
        "bought-by-who-lost-it", "a worker that slept between its look-up and its purchase buys what another one bought",
        (Edit("taskflow/nodes/machine.py", "now = ctx.ensure_ours(uncancelled=True)", "now = ctx.now"),), _PURCHASES,
    ),
    Mutant(
        "gone-before-it-came", "a node is destroyed while the server of a lost answer is not listed yet",
        (Edit("taskflow/nodes/machine.py", "node.intent_at is not None and not provider.told_at_once", "False"),),
        _PURCHASES,
    ),
    Mutant(
        "full-account-bought-from", "a full account is asked again by every task",
        (Edit("taskflow/nodes/purchase.py", "_rests(account, now) or full", "full"),), _PURCHASES,
    ),
    Mutant(
        "another-node-only-for-none", "a node that is full for hours is waited for although another one would do",
        (Edit(
            "taskflow/nodes/selector.py", 'or named.action in ("use", "await_node"):', 'or named.action != "impossible":',
        ),),
        ("tests/nodes/test_selector.py",),
    ),
    Mutant(
        "full-disk-chosen", "a server with a full disk gets one task after the other, because it is warm",
        (Edit("taskflow/nodes/admission.py", 'disk_percent=beat.get("disk_percent")', "disk_percent=None"),), _PURCHASES,
    ),
    Mutant(
        "preferred-place-forgotten", "a place that is only preferred is never asked for",
        (Edit("taskflow/nodes/selector.py", "PREFER and self.location not in (None, location)", "PREFER and False"),),
        ("tests/nodes/test_selector.py",),
    ),
    Mutant(
        "slot-promised-twice", "a node that is coming is promised to everybody",
        (Edit("taskflow/nodes/selector.py", "self.live_workspaces + self.expected", "self.live_workspaces"),),
        ("tests/nodes/test_selector.py",),
    ),
    Mutant(
        "reserved-twice", "cpu and memory that one workspace reserved are reserved again",
        (Edit(_WORKSPACES, "        if vcpus or memory_mb:\n", "        if False:\n"),), _PURCHASES,
    ),
    Mutant(
        "destroyed-before-it-is", "a server that still costs money counts as destroyed",
        (Edit(
            "taskflow/nodes/machine.py",
            "        if not self._is_gone(provider, node, ctx.now):\n",
            "        self._is_gone(provider, node, ctx.now)\n        if False:\n",
        ),),
        _MACHINE,
    ),
    Mutant(
        "deleted-with-every-look", "a server that takes its time to go uses up the requests of an hour",
        (Edit("taskflow/nodes/machine.py", "_DELETE_AGAIN_S = 60.0", "_DELETE_AGAIN_S = 0.0"),),
        ("tests/nodes/test_cloud_worlds.py",),
    ),
    Mutant(
        "asked-again-before-allowed", "a provider that says when to come back is asked all the time",
        (Edit(
            "taskflow/nodes/providers/hetzner.py", "RateLimited(said, retry_after_s=self._retry_after_s)",
            "RateLimited(said)",
        ),),
        ("tests/nodes/test_cloud_worlds.py",),
    ),
    Mutant(
        "one-sign-is-death", "a node that is only slow, or only out of reach, loses its tasks",
        (Edit(
            "taskflow/nodes/liveness.py",
            "if server_state in _GONE and agent_answers is False:",
            "if server_state in _GONE or agent_answers is False:",
        ),),
        ("tests/nodes/test_liveness.py",),
    ),
    Mutant(
        "moved-is-death", "a server that its provider moves or reboots passes for one that is off",
        (Edit("taskflow/nodes/providers/hetzner.py", 'or "", UNKNOWN)', 'or "", "stopped")'),),
        ("tests/nodes/test_provider_conformance_clouds.py",),
    ),
    Mutant(
        "cut-link-is-death", "a link that is cut is taken for two signs, while sessions still live behind it",
        (Edit(
            "taskflow/nodes/liveness.py", "    if lost_s is None and server_state != UNKNOWN and agent_answers is False",
            "    if server_state != UNKNOWN and agent_answers is False",
        ),),
        ("tests/nodes/test_liveness.py",),
    ),
    Mutant(
        "secrets-in-the-evidence", "what an agent logged is stored with the tokens and passwords in it",
        (Edit("taskflow/nodes/evidence.py", "mask_text(text))", "text)"),),
        ("tests/nodes/test_evidence.py",),
    ),
    Mutant(
        "lost-by-one-sign", "a session that runs is ended because heartbeats did not name it for a moment",
        (Edit(
            "taskflow/pipelines/agent_task/session.py",
            'return self._tools.agent(node, ctx.now).get_session(ctx.results["workspace_id"], session_id) is None',
            "return True",
        ),),
        ("tests/pipelines/test_forgotten_sessions.py",),
    ),
    Mutant(
        "verdict-over-a-heartbeat", "a node that was heard of while its verdict was written is destroyed",
        (Edit(
            _NODES, ".where(Node.id == node.id, Node.last_heartbeat_at.is_not_distinct_from(node.last_heartbeat_at))",
            ".where(Node.id == node.id)",
        ),),
        ("tests/nodes/test_lost.py::test_who_is_heard_of_while_the_verdict_is_written_lives",),
    ),
    Mutant(
        "rerun-for-each-delivery", "a promise that is delivered twice runs a lost task twice",
        (Edit(
            "taskflow/service/tasks.py", "last is None or task.run_id != run_id or task.status != \"failed\":",
            "last is None or task.status not in (\"failed\", \"completed\"):",
        ),),
        ("tests/pipelines/test_node_loss_reruns.py",),
    ),
    Mutant(
        "rerun-beside-the-lost-run", "a task begins elsewhere while its sessions still live on a silent machine",
        (Edit(
            "taskflow/service/reruns.py", "return by != UNANSWERED and now > (task.completed_at or now) + signature_age_s",
            "return True",
        ),),
        ("tests/pipelines/test_node_loss_reruns.py",),
    ),
    Mutant(
        "late-order-for-a-destroyed-node", "a paused worker's order makes a server that nobody knows",
        (Edit(
            "taskflow/nodes/providers/local.py",
            'if (folder / "destroy").exists() or (folder / "destroyed").exists():', "if False:",
        ),),
        ("tests/nodes/test_local_provider.py",),
    ),
    Mutant(
        "a-host-for-two", "a host that somebody has is given to whoever asks",
        (Edit(_SSH_HOST, '{"by": place.label(), ', '{"by": label, '),),
        _LAB,
    ),
    Mutant(
        "host-forgets-the-destroyed", "a late order brings back a node that was destroyed on its host",
        (Edit(_SSH_HOST, "        place.bury(label)\n", ""),),
        _LAB,
    ),
    Mutant(
        "any-host-key", "whoever answers at a host's address is given the order with its tokens",
        (Edit("taskflow/nodes/providers/ssh_link.py", "known_hosts=known_hosts", "known_hosts=None"),),
        ("tests/nodes/test_ssh_access.py",),
    ),
    Mutant(
        "a-host-that-is-down-has-nothing", "a node is destroyed because its host could not be asked",
        (Edit(
            "taskflow/nodes/providers/ssh.py",
            "        _must_all_answer(answers)\n        return all(answer is True for _, answer in answers)",
            "        return all(answer is not False for _, answer in answers)",
        ),),
        _LAB,
    ),
    Mutant(
        "stopped-while-a-session-lives", "a task begins elsewhere while its command goes on where its agent was killed",
        (Edit(_SSH_HOST, '            *self.root.glob("workspaces/*/sessions/*/shim.lock"),\n', ""),),
        ("tests/nodes/test_ssh_host.py::test_a_host_on_which_a_session_lives_is_not_stopped",),
    ),
    Mutant(
        "anybody-says-not-found", "a server counts as destroyed because something on the way has a page for that",
        (Edit(
            "taskflow/nodes/providers/hetzner.py", 'gone_is_fine and error.code == "not_found":',
            'gone_is_fine and error.code in ("not_found", 404):',
        ),),
        ("tests/nodes/test_provider_conformance_clouds.py",),
    ),
)  # fmt: skip
