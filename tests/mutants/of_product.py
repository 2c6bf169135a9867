"""Faults around the engine: guards in SQL, callbacks, slots, nodes, sweeps, access, the node's agent."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_NODES = "taskflow/db/nodes.py"
_WORKSPACES = "taskflow/db/workspaces.py"
_TASKS = "taskflow/db/tasks.py"
_WORKSPACE = "taskflow/pipelines/agent_task/workspace.py"
_CALLBACKS = "taskflow/service/callbacks.py"
_ACCOUNTS = "taskflow/service/accounts.py"
_CLOSING = "taskflow/pipelines/agent_task/closing.py"
_AGENT_WORKSPACES = "taskflow/agent/workspaces.py"
_SHIM = "taskflow/agent/shim.py"
_PURCHASES = ("tests/nodes/test_purchases.py",)
_GUARDS = ("tests/db/test_guards.py",)
_CALLS = ("tests/service/test_callbacks.py",)
_CONTRACT = ("tests/agent/test_contract.py",)
_MACHINE = ("tests/nodes/test_machine.py",)
_SSH_HOST = "taskflow/nodes/providers/ssh_host.py"
_LAB = ("tests/nodes/test_ssh_provider.py",)

_FEED = "taskflow/db/feed.py"
_STREAMS = "web/streams.py"

_SQL = (
    Mutant(
        "feed-shows-what-may-be-overtaken", "a reader passes an event whose transaction commits late, for ever",
        (Edit(_FEED, "    Event.xact < _XMIN,\n", ""),),
        ("tests/db/test_feed.py",),
    ),
    Mutant(
        "feed-of-everybody", "an owner reads what happens to another's tasks",
        (Edit(_FEED, '.where(Event.owner_id == bindparam("of_owner"))', '.where(bindparam("of_owner") != "")'),),
        ("tests/db/test_feed.py",),
    ),
    Mutant(
        "streams-without-a-bound", "streams take every thread of a web process",
        (Edit(_STREAMS, "len(open_ones) >= self._settings.streams_max", "False"),),
        ("tests/web/test_streams.py",),
    ),
    Mutant(
        "stream-outlives-its-token", "a revoked token goes on reading over a stream that is open",
        (Edit(_STREAMS, "            self._over = not self._is_live()\n", "            self._is_live()\n"),),
        ("tests/web/test_streams.py",),
    ),
    Mutant(
        "any-status-from-any", "a status is left for one that does not follow it",
        (Edit(
            _TASKS, ', Task.status.in_(bindparam("allowed", expanding=True)))',
            ', Task.status.not_in(bindparam("allowed", expanding=True)) | (Task.id != ""))',
        ),),
        _GUARDS,
    ),
    Mutant(
        "old-run-writes-status", "a former run ends the task that its successor works on",
        (Edit(_TASKS, "= _TRANSITION.where(Task.run_id == bindparam(\"of_run\"))", "= _TRANSITION"),),
        ("tests/db/test_guards.py::test_a_former_run_changes_no_status",),
    ),
    Mutant(
        "slots-not-counted", "more workspaces on a node than it has slots",
        (Edit(_WORKSPACES, "        if live_count(tx, node_id) >= taken.slots:\n", "        if False:\n"),), _GUARDS,
    ),
    Mutant(
        "slots-counted-before-the-lock", "two placements that count at once both find the last slot free",
        (
            Edit(
                _WORKSPACES, "        # The node's run first, then the node: the same order",
                "        counted = live_count(tx, node_id)\n"
                "        # The node's run first, then the node: the same order",
            ),
            Edit(
                _WORKSPACES, "        if live_count(tx, node_id) >= taken.slots:\n", "        if counted >= taken.slots:\n"
            ),
        ),
        _GUARDS,
    ),
    Mutant(
        "place-on-a-draining-node", "a workspace is put on a node that is being destroyed",
        (Edit(
            _WORKSPACES, "            .where(Node.id == node_id, Node.status.in_(NODE_USABLE))\n",
            "            .where(Node.id == node_id)\n",
        ),),
        ("tests/pipelines/test_capacity.py",),
    ),
    Mutant(
        "drained-under-a-claim", "a node that was just claimed is drained because its warm time is over",
        (Edit(_NODES, "        if idle and live_count(tx, node_id):\n", "        if False:\n"),),
        ("tests/pipelines/test_capacity.py::test_a_claim_just_before_the_warm_time_ends_keeps_the_node",),
    ),
    Mutant(
        "limit-counted-before-the-lock", "two tasks that choose at the same time both pass a limit",
        (Edit(
            "taskflow/nodes/limits.py",
            "found.no_room(project, node_id)\n        if why is not None:",
            "found.no_room(project, node_id)\n        if False:",
        ),),
        ("tests/db/test_usage.py",),
    ),
    Mutant(
        "cost-beyond-the-month", "a node that stood over midnight costs in the month after what it cost before",
        (Edit(
            "taskflow/db/usage.py", "_earlier(ended, _UNTIL) - _later(began, _SINCE)",
            "_earlier(ended, _UNTIL) - began",
        ),),
        ("tests/db/test_usage.py",),
    ),
    Mutant(
        "nodes-without-limit", "a race for the last allowed node makes two",
        (Edit(
            "taskflow/nodes/purchase.py", "        if why is not None:\n            raise Refused",
            "        if False:\n            raise Refused",
        ),),
        _GUARDS,
    ),
    Mutant(
        "writers-begin-late", "a writing transaction finds out at its end that another one wrote",
        (Edit("taskflow/db/session.py", '"BEGIN IMMEDIATE" if writes else "BEGIN"', '"BEGIN"'),),
        ("tests/db/test_databases.py",),
    ),
    Mutant(
        "busy-is-final", "a moment of contention in the database fails what it hits",
        (Edit("taskflow/db/session.py", "if attempt == _TRIES or not _may_succeed_again(error):", "if True:"),),
        ("tests/db/test_databases.py",),
    ),
    Mutant(
        "second-key-second-task", "a repeated submission makes a second task",
        (Edit("taskflow/service/tasks.py", "        if used is None:\n", "        if True:\n"),),
        ("tests/service/test_tasks_explain_health.py",),
    ),
)  # fmt: skip

_TASK = (
    Mutant(
        "ring-before-commit", "the woken turn reads SQL before the answer is there, and nobody wakes it again",
        (Edit(
            _CALLBACKS, "        self._ringer.ring([self._database.write(work)])\n",
            "        with self._database.read() as tx:\n            found = lock_run_of_workspace(tx, workspace_id)\n"
            "        self._ringer.ring([found.id] if found else [])\n        self._database.write(work)\n",
        ),),
        ("tests/service/test_rings.py",),
    ),
    Mutant(
        "start-before-commit", "the first alarm of a run fires before its row is there, and is taken for a leftover",
        (
            Edit(
                "taskflow/service/tasks.py",
                "        if run is not None:\n            self._start(run)\n        return task_view",
                "        return task_view",
            ),
            Edit(
                "taskflow/service/tasks.py", "            insert_run(tx, run, created_at=now)\n        task = task_rows",
                "            insert_run(tx, run, created_at=now)\n            self._start(run)\n        task = task_rows",
            ),
        ),
        ("tests/service/test_rings.py",),
    ),
    Mutant(
        "node-asked-in-vain", "what the node said when it was asked is contradicted later, and that is accepted",
        (Edit(_WORKSPACE, "return self._answered(ctx, answer, asked)", "return self._answered(ctx, answer)"),),
        ("tests/pipelines/test_failures.py",),
    ),
    Mutant(
        "asked-over-reported", "the node's answer overrides a report that was accepted while it was asked",
        (Edit(_WORKSPACES, "            raise SignalArrived\n", "            pass\n"),),
        ("tests/pipelines/test_failures.py",),
    ),
    Mutant(
        "report-before-answer-forgotten", "what was reported before its request was answered ends as the node's death",
        (Edit("taskflow/engine/pipeline.py", "return any(signal.name == name and", "return any(False and"),),
        ("tests/pipelines/test_failures.py",),
    ),
    Mutant(
        "callback-after-the-end", "a workspace that ended comes back by its own late report",
        (Edit(
            _CALLBACKS,
            "            if run.finished_at is not None or task.status in TERMINAL or task.workspace_released_at"
            " is not None:\n"
            "                raise Gone(f\"the run of workspace",
            "            if False:\n                raise Gone(f\"the run of workspace",
        ),),
        _CALLS,
    ),
    Mutant(
        "late-result-thrown-away", "work that was done on a node wrongly taken for dead is lost",
        (Edit(
            _CALLBACKS,
            'if (verdict or {}).get("code") not in _LIVENESS_VERDICTS or payload["outcome"] not in _LATE_RESULTS:',
            "if True:",
        ),),
        ("tests/pipelines/test_failures.py",),
    ),
    Mutant(
        "cleanup-before-the-end", "the task's end waits for its cleanup, and is lost with it",
        (
            Edit(
                "taskflow/pipelines/agent_task/session.py",
                'effects=(ended, transition_effect(task_id, "completed", run_id=run_id, now=ctx.now, fields=fields)),',
                "effects=(ended,),",
            ),
            Edit(
                _CLOSING, '        return Done(effects=self._release(ctx, ended="lost" if lost else "stopped"))\n',
                "        end = transition_effect(ctx.run.subject_id, 'completed', run_id=ctx.run.id, now=ctx.now)\n"
                "        return Done(effects=(*self._release(ctx), end))\n",
            ),
        ),
        ("tests/pipelines/test_failures.py::test_a_task_has_ended_before_its_cleanup_begins",),
    ),
    Mutant(
        "workspace-left-on-its-node", "what ran goes on running after its task's end",
        (Edit(
            _CLOSING, "            self._tools.agent(node, ctx.now).delete_workspace(workspace.id, ctx.run.rev)\n",
            "            pass\n",
        ),),
        ("tests/pipelines/test_decisions.py",),
    ),
    Mutant(
        "slot-not-given-back", "every task takes a slot for ever",
        (Edit(
            _CLOSING, '        return Done(effects=self._release(ctx, ended="lost" if lost else "stopped"))\n',
            "        return Done()\n",
        ),),
        ("tests/pipelines/test_capacity.py",),
    ),
    Mutant(
        "capacity-not-signalled", "a worker that dies after a release takes the wake-up of those who wait with it",
        (Edit(
            "taskflow/db/waiting.py",
            '    record_signal(tx, task.run_id, CAPACITY, f"{node_id}@{now:.6f}", {"node_id": node_id}, now=now)\n', "",
        ),),
        ("tests/pipelines/test_capacity.py::test_a_release_whose_worker_dies_wakes_who_waits_all_the_same",),
    ),
    Mutant(
        "priority-without-ageing", "who has a low priority waits for ever",
        (Edit("taskflow/db/waiting.py", "Run.created_at - Task.priority * ageing_s", "-Task.priority"),),
        ("tests/nodes/test_admission.py",),
    ),
    Mutant(
        "small-before-large", "who needs a whole node waits while small tasks share it",
        (Edit("taskflow/nodes/admission.py", "replace(node, slots=0) if _lacks", "node if _lacks"),),
        ("tests/nodes/test_admission.py",),
    ),
    Mutant(
        "failing-items-fill-the-page", "items that always fail keep all the others from their turn",
        (Edit("taskflow/sweeps/items.py", "self.memory.after(of), ~rests)", "self.memory.after(of))"),),
        ("tests/db/test_sweep_items.py",),
    ),
    Mutant(
        "sweep-that-does-nothing-succeeds", "a sweep that fails at all its items looks well",
        (Edit(
            "taskflow/sweeps/ledger.py", "    if is_degraded(result) and not result.get(\"done\"):\n", "    if False:\n",
        ),),
        ("tests/db/test_sweep_items.py",),
    ),
    Mutant(
        "leftovers-of-the-living", "a node's workspace is deleted there while its run still needs it",
        (Edit(
            "taskflow/sweeps/stop_ended_workspaces.py",
            "        if workspace.released_at is None or workspace.run_finished_at is None:\n            return False\n"
            "        # A", "        # A",
        ),),
        ("tests/db/test_node_sweeps.py",),
    ),
    Mutant(
        "orphan-without-the-mark", "a server that somebody took over is deleted",
        (Edit(
            "taskflow/sweeps/delete_orphans.py", "(again.server_id, again.label, again.mark) != (server_id, orphan.label, "
            "orphan.mark)", "(again.server_id, again.label) != (server_id, orphan.label)",
        ),),
        ("tests/nodes/test_audit.py",),
    ),
    Mutant(
        "outbox-forgets-failures", "a promise whose consumer failed counts as kept",
        (Edit(
            "taskflow/sweeps/drain_outbox.py",
            "        retry_at = now() + min(_RETRY_MAX_S, _RETRY_BASE_S * 2 ** min(row.attempts, 10))\n", "",
        ),),
        ("tests/db/test_sweeps.py",),
    ),
    Mutant(
        "rerun-during-cleanup", "the next run begins while the last one still holds its workspace",
        (Edit(
            "taskflow/service/tasks.py",
            "if last is not None and last.finished_at is None and task.status in TERMINAL:", "if False:",
        ),),
        ("tests/pipelines/test_rerun.py",),
    ),
    Mutant(
        "stuck-sweep-fails-the-living", "a task whose runner is alive is failed because it is old",
        (Edit(
            "taskflow/sweeps/fail_stuck_tasks.py", "    if facts.runner_alive:\n", "    if False:\n",
        ),),
        ("tests/db/test_sweeps.py",),
    ),
)  # fmt: skip

_NODE = (
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
        "gone-before-it-came", "a node is destroyed while the server of a lost answer is not listed yet",
        (Edit("taskflow/nodes/machine.py", "node.intent_at is not None and not provider.told_at_once", "False"),),
        _PURCHASES,
    ),
    Mutant(
        "full-account-bought-from", "a full account is asked again by every task",
        (Edit("taskflow/nodes/purchase.py", "_rests(account, now) or full", "full"),), _PURCHASES,
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
            "        if not provider.destroy(node.server_id or node.label):\n            return",
            "        provider.destroy(node.server_id or node.label)\n        if False:\n            return",
        ),),
        _MACHINE,
    ),
    Mutant(
        "one-sign-is-death", "a node that is only slow, or only out of reach, loses its tasks",
        (Edit(
            "taskflow/nodes/liveness.py",
            'if server_state not in ("starting", "running", UNKNOWN) and agent_answers is False:',
            'if server_state not in ("starting", "running", UNKNOWN) or agent_answers is False:',
        ),),
        ("tests/nodes/test_liveness.py",),
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
        _LAB,
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
)  # fmt: skip

_ACCESS = (
    Mutant(
        "signed-body-not-compared", "a body is swapped under a good signature",
        (Edit("web/auth.py", "        signed.check_body(read_body())\n", "        pass\n"),),
        ("tests/security/test_signatures.py",),
    ),
    Mutant(
        "public-cas-for-agents", "whoever a public CA certifies is taken for an agent",
        (Edit(
            "taskflow/nodes/agent_client.py", '        conn.cert_reqs = "CERT_REQUIRED"\n',
            "        super().cert_verify(conn, url, verify, cert)\n",
        ),),
        ("tests/nodes/test_agent_client.py",),
    ),
    Mutant(
        "renewal-told-once", "a node whose answer was lost keeps a token that expires",
        (Edit("taskflow/service/renewal.py", "generation > seen", "generation > row.generation"),),
        ("tests/service/test_renewal.py",),
    ),
    Mutant(
        "boot-goes-back", "a late report of a boot hides how far the server came",
        (Edit("taskflow/db/nodes.py", "Node.boot_stage.is_(None) | Node.boot_stage.in_(earlier)", "Node.id == node_id"),),
        ("tests/web/test_boot.py",),
    ),
    Mutant(
        "token-of-any-workspace", "a workspace reports for another one",
        (Edit(
            _ACCOUNTS, "        if self.scope != scope or self.subject_id != subject_id:\n",
            "        if self.scope != scope:\n",
        ),),
        _CALLS,
    ),
    Mutant(
        "token-of-any-scope", "a workspace's token opens the API of its owner",
        (Edit(_ACCOUNTS, "    if row.scope != scope:\n", "    if False:\n"),),
        ("tests/service/test_accounts_vault.py",),
    ),
    Mutant(
        "revoked-token", "a token that was revoked goes on working",
        (Edit(_ACCOUNTS, "if row is None or row.revoked_at is not None:", "if row is None:"),),
        ("tests/service/test_accounts_vault.py",),
    ),
    Mutant(
        "expired-token", "a token outlives its time",
        (Edit(
            _ACCOUNTS, "if row.expires_at is not None and row.expires_at <= now:", "if False:",
        ),),
        ("tests/service/test_accounts_vault.py",),
    ),
    Mutant(
        "role-of-anybody", "a viewer's token does what needs more",
        (Edit("web/auth.py", "        g.caller.must_have(guard.role)\n", "        pass\n"),),
        ("tests/web/test_roles.py",),
    ),
    Mutant(
        "forged-request", "another site's page writes with a browser that is signed in",
        (Edit(
            "web/sessions.py",
            "if not expected or not hmac.compare_digest(carried.encode(), expected.encode()):", "if False:",
        ),),
        ("tests/security/test_browsers.py",),
    ),
    Mutant(
        "link-used-twice", "a sign-in link signs a second browser in",
        (Edit("taskflow/db/browsers.py", "SignInCode.used_at.is_(None), ", ""),),
        ("tests/web/test_sign_in.py", "tests/db/test_accounts.py"),
    ),
    Mutant(
        "session-taken-over", "the session that a browser had before it signs in goes on",
        (Edit(
            "taskflow/service/browsers.py", "                delete_browser(tx, hash_token(former))\n",
            "                pass\n",
        ),),
        ("tests/security/test_browsers.py",),
    ),
    Mutant(
        "way-to-another-site", "signing in leads to a page of another site",
        (Edit("web/sign_in/views.py", " and _LOCAL.match(wanted):", ":"),),
        ("tests/security/test_browsers.py",),
    ),
    Mutant(
        "tasks-of-everybody", "another owner's task can be read, cancelled and run again",
        (Edit(
            _TASKS, 'select(TASKS).where(Task.owner_id == bindparam("of_owner"), Task.id == bindparam("of_task"))',
            'select(TASKS).where(Task.id == bindparam("of_task"))',
        ),),
        ("tests/service/test_tasks_explain_health.py",),
    ),
)  # fmt: skip

_AGENT = (
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

MUTANTS: tuple[Mutant, ...] = (*_SQL, *_TASK, *_NODE, *_ACCESS, *_AGENT)
