"""Faults of what people and their programs touch: own pipelines, pages and filters of the API, the dashboard, metrics."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_RUNS = "taskflow/service/runs.py"
_OWN = "taskflow/db/own_runs.py"
_LISTING = "taskflow/db/listing.py"
_REPEATS = "taskflow/service/repeats.py"
_OVERVIEW = "taskflow/service/overview.py"
_COUNTING = "taskflow/observe/counting.py"
_FILES = "taskflow/observe/files.py"
_KIT = "taskflow/testing/kit.py"
_OF_RUNS = ("tests/service/test_runs.py", "tests/web/test_runs.py")
_OF_FILTERS = ("tests/web/test_filters.py",)
_OF_OVERVIEW_PAGE = ("tests/dashboard/test_overview.py",)
_OF_METRICS = ("tests/observe/test_metrics.py",)

_OWN_PIPELINES = (
    Mutant(
        "own-run-of-everybody", "another owner's run can be read, signalled and cancelled",
        (Edit(
            _OWN, '_ONE = _OF_OWNER.where(Run.id == bindparam("of_run"))',
            '_ONE = _ROW.where(Run.id == bindparam("of_run"), bindparam("of_owner") != "")',
        ),),
        _OF_RUNS,
    ),
    Mutant(
        "own-runs-of-everybody", "a list has the runs of other owners",
        (Edit(
            _OWN, "        place = OwnRun.run_id\n        query = query.where(OwnRun.owner_id == owner_id)\n",
            "        place = OwnRun.run_id\n",
        ),),
        _OF_RUNS,
    ),
    Mutant(
        "own-open-runs-of-everybody", "a list of what is open has the runs of other owners",
        (Edit(_OWN, "query.where(Run.owner_id == owner_id, OWN, ", "query.where(OWN, "),),
        _OF_RUNS,
    ),
    Mutant(
        "own-run-again-twice", "a client that asks again to run again gets a further run once the new one has failed",
        (Edit(_RUNS, "            return self._once(tx, caller, key, make)\n", "            return make(tx), True\n"),),
        _OF_RUNS,
    ),
    Mutant(
        "own-run-by-a-hint-alone", "a new run whose first hint is lost waits for the rescue",
        (Edit(_RUNS, "            self._starter.start(to_row(row), began)\n",
              "            self._ringer.ring([RunId(row.id)])\n"),),
        _OF_RUNS,
    ),
    Mutant(
        "second-answer-wins", "a callback that says otherwise than the first is told that it counts",
        (Edit(_RUNS, "                if payload_hash(known.payload) != payload_hash(payload):\n",
              "                if False:\n"),),
        _OF_RUNS,
    ),
    Mutant(
        "signal-after-the-end", "a signal to a run that has ended is taken and never read",
        (Edit(_RUNS, "            self._check_open(tx, run)\n", ""),),
        _OF_RUNS,
    ),
    Mutant(
        "signal-not-rung", "a run learns of its signal when it happens to look",
        (Edit(_RUNS, "        self._ringer.ring([RunId(run_id)], due_too=recorded)\n", ""),),
        (*_OF_RUNS, "tests/testing/test_kit.py"),
    ),
    Mutant(
        "own-key-for-other-content", "a key that was used answers with a run of other content",
        (Edit(_RUNS, "        if known is not None and key is not None and known.request_hash != key[1]:\n",
              "        if False:\n"),),
        _OF_RUNS,
    ),
    Mutant(
        "own-key-forgotten", "a client that asks again gets a second run",
        (Edit(_RUNS, "lambda tx: self._once(tx, caller, key, make)", "lambda tx: (make(tx), True)"),),
        _OF_RUNS,
    ),
    Mutant(
        "token-of-any-signal", "who may answer one question of a run answers all",
        (Edit(_RUNS, "        if row.signal != name:\n", "        if False:\n"),),
        _OF_RUNS,
    ),
    Mutant(
        "callback-outlives-its-time", "the token of a callback is good for ever",
        (Edit(_RUNS, "        if row is None or row.expires_at <= self._now():\n", "        if row is None:\n"),),
        _OF_RUNS,
    ),
    Mutant(
        "rerun-of-what-completed", "an order that was shipped is shipped again",
        (Edit(_RUNS, "            if run.finished_at is None or run.error is None:\n",
              "            if run.finished_at is None:\n"),),
        _OF_RUNS,
    ),
    Mutant(
        "owner-without-a-limit", "one owner's runs are all that the installation does",
        (Edit(_RUNS, "            self._admission.admit(tx, caller.owner_id)\n            return ",
              "            return "),),
        _OF_RUNS,
    ),
    Mutant(
        "kit-dies-softly", "the test kit's dead worker leaves its objects to the next one",
        (Edit(_KIT, "            self.crashes.append(str(crash))\n            self._start_worker()\n",
              "            self._start_worker()\n"),),
        ("tests/testing/test_kit.py",),
    ),
)  # fmt: skip

_API = (
    Mutant(
        "page-skips-a-twin", "two tasks of one instant at the end of a page: the second is on no page",
        (Edit(_LISTING, "or_(Task.created_at < at, Task.id < task_id)", "Task.created_at < at"),),
        _OF_FILTERS,
    ),
    Mutant(
        "page-shows-a-row-twice", "the last task of a page is the first of the next",
        (Edit(_LISTING, "or_(Task.created_at < at, Task.id < task_id)", "or_(Task.created_at < at, Task.id <= task_id)"),),
        _OF_FILTERS,
    ),
    Mutant(
        "errors-of-everybody", "what failed for another owner is listed",
        (Edit(_LISTING, "        .where(ErrorRow.owner_id == owner_id)\n", ""),),
        ("tests/web/test_filters.py", "tests/web/test_tasks.py"),
    ),
    Mutant(
        "text-is-a-pattern", "who looks for 100% finds everything with 100 in it",
        (Edit(_LISTING, "column.icontains(text, autoescape=True)", "column.icontains(text)"),),
        _OF_FILTERS,
    ),
    Mutant(
        "one-label-is-enough", "a task that has another value of the label is listed",
        (Edit(_LISTING, "each.c.key == key, each.c.value == value", "each.c.key == key"),),
        _OF_FILTERS,
    ),
    Mutant(
        "step-of-ended-runs", "a task that was at the step once is listed as standing there",
        (Edit(_LISTING, "Run.finished_at.is_(None), Run.step == wanted.step", "Run.step == wanted.step"),),
        _OF_FILTERS,
    ),
    Mutant(
        "first-instant-left-out", "a task of the first instant that was asked for is missing",
        (Edit(_LISTING, "Task.created_at >= wanted.created_after", "Task.created_at > wanted.created_after"),),
        _OF_FILTERS,
    ),
    Mutant(
        "cancel-done-twice", "a client whose answer was lost makes a second run of the task",
        (Edit(_REPEATS, "                raise _DoneBefore\n", "                pass\n"),),
        ("tests/web/test_repeats.py",),
    ),
    Mutant(
        "bulk-with-one-key", "of several tasks under one key the first alone is done",
        (Edit(_REPEATS, "key=_key_of(key, task_id))", "key=key)"),),
        ("tests/web/test_repeats.py",),
    ),
    Mutant(
        "same-tag-for-all", "what has changed is said to be the same",
        (Edit("web/conditional.py", 'said.encode() + b"\\0" + response.get_data()', 'b"tag"'),),
        ("tests/web/test_conditional.py",),
    ),
    Mutant(
        "any-origin", "pages of every site may call the API",
        (Edit("web/cors.py", "return origin if origin in allowed and", "return origin if origin and"),),
        ("tests/web/test_conditional.py", "tests/security"),
    ),
)  # fmt: skip

_SEEN = (
    Mutant(
        "overview-of-everybody", "the numbers of the first page are those of all owners",
        (Edit(_OVERVIEW, "        .where(Task.owner_id == owner_id, Task.status.in_(_OPEN))\n",
              "        .where(Task.status.in_(_OPEN))\n"),),
        ("tests/service/test_overview.py",),
    ),
    Mutant(
        "failed-counts-as-done", "the mean duration is that of failed tasks too",
        (Edit(_OVERVIEW, '        if row.status == "completed":  #', "        if True:  #"),),
        ("tests/service/test_overview.py",),
    ),
    Mutant(
        "late-beat-is-well", "nobody is told that sweeps stand still",
        (Edit(_OVERVIEW, '    return _said("ok", alive()) if says == "ok" else _said("late", says)\n',
              '    return _said("ok", alive())\n'),),
        _OF_OVERVIEW_PAGE,
    ),
    Mutant(
        "bar-of-another-run", "the timeline of a run has the steps of the one before it",
        (Edit("web/dashboard/timeline.py", ' if event["run_id"] == run["id"]]', "]"),),
        ("tests/dashboard/test_timeline.py",),
    ),
    Mutant(
        "failure-blamed-on-cleanup", "the step that failed is drawn as done",
        (Edit("web/dashboard/timeline.py", 'in (None, _CANCELLED) else "failed"', 'in (None, _CANCELLED) else "done"'),),
        ("tests/dashboard/test_timeline.py",),
    ),
    Mutant(
        "metrics-for-anybody", "everybody's work can be counted by anybody",
        (Edit("web/auth.py", "        service().metrics.check(_token())\n", "        pass\n"),),
        _OF_METRICS,
    ),
    Mutant(
        "paths-as-labels", "every id that is asked for is a time series of its own",
        (Edit("web/context.py", 'route = "none" if request.url_rule is None else request.url_rule.rule',
              "route = request.path"),),
        _OF_METRICS,
    ),
    Mutant(
        "dead-counted-at-each-scrape", "the work of a dead process grows with every look",
        (Edit(_FILES, "                (directory / name).unlink(missing_ok=True)\n", "                pass\n"),),
        _OF_METRICS,
    ),
    Mutant(
        "killed-reader-doubles", "counts jump when a reader is killed while it adds up those of the dead",
        (Edit(_FILES, "    begun.replace(merged)\n", ""),),
        ("tests/observe/test_files.py",),
    ),
    Mutant(
        "two-readers-fold", "two readers at once count the dead twice",
        (Edit(_FILES, "    if not lock.acquire(wait_s=_WAIT_S):", "    if not lock.acquire(wait_s=_WAIT_S) and False:"),),
        ("tests/observe/test_files.py",),
    ),
    Mutant(
        "dead-not-counted", "counters fall when a process is replaced",
        (Edit(_FILES, "            sums[key] += value\n", "            sums[key] = value\n"),),
        _OF_METRICS,
    ),
    Mutant(
        "uncounted-fails-the-work", "a task fails because a file of the metrics can't grow",
        (Edit(_COUNTING, '        except OSError as error:\n            log.warning("not_counted", what',
              '        except ZeroDivisionError as error:\n            log.warning("not_counted", what'),),
        _OF_METRICS,
    ),
    Mutant(
        "trace-of-its-own", "each process has another trace of the same run",
        (Edit("taskflow/observe/tracing.py", 'hashlib.sha256(b"taskflow.trace:" + run_id.encode())',
              'hashlib.sha256(b"taskflow.trace:%d" % time.time_ns() + run_id.encode())'),),
        ("tests/observe/test_tracing.py",),
    ),
)  # fmt: skip

MUTANTS: tuple[Mutant, ...] = (*_OWN_PIPELINES, *_API, *_SEEN)
