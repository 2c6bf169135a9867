"""Faults around the engine: guards in SQL, callbacks, slots, sweeps, access."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_NODES = "taskflow/db/nodes.py"
_WORKSPACES = "taskflow/db/workspaces.py"
_TASKS = "taskflow/db/tasks.py"
_WORKSPACE = "taskflow/pipelines/agent_task/workspace.py"
_CALLBACKS = "taskflow/service/callbacks.py"
_ACCOUNTS = "taskflow/service/accounts.py"
_CLOSING = "taskflow/pipelines/agent_task/closing.py"
_GUARDS = ("tests/db/test_guards.py",)
_CALLS = ("tests/service/test_callbacks.py",)

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
                "        if run is not None:\n            self._starter.start(run, began)\n        return task_view",
                "        return task_view",
            ),
            Edit(
                "taskflow/service/tasks.py",
                "            insert_run(tx, run)\n        task =",
                "            insert_run(tx, run)\n            self._starter.start(run, 0)\n        task =",
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
        ("tests/db/test_sweeps.py::test_a_bad_outbox_row_strands_no_other",),
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

MUTANTS: tuple[Mutant, ...] = (*_SQL, *_TASK, *_ACCESS)
