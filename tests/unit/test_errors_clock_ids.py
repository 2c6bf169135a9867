"""Errors, clock and ids: what everything else stands on."""

from __future__ import annotations

import time

import pytest

from taskflow import errors, ids
from taskflow.clock import ManualClock, SystemClock, isoformat
from taskflow.errors import TaskflowError, UsageError

ALL_ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, TaskflowError)]


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (errors.StepError, errors.TaskflowError),
        (errors.TransientError, errors.StepError),
        (errors.OutcomeUnknown, errors.TransientError),
        (errors.CapacityError, errors.TransientError),
        (errors.PermanentError, errors.StepError),
        (errors.UsageError, errors.TaskflowError),
        (errors.NotFound, errors.UsageError),
        (errors.InfrastructureError, errors.TaskflowError),
    ],
)
def test_error_tree(error: type[Exception], parent: type[Exception]) -> None:
    """The runner decides by class, so each error stands below the class that decides for it."""
    assert issubclass(error, parent)


def test_what_is_retried_and_what_is_not_are_disjoint() -> None:
    """No error is both transient and permanent, and a caller's mistake is no step's failure."""
    for error in ALL_ERRORS:
        kinds = (errors.TransientError, errors.PermanentError, errors.UsageError, errors.InfrastructureError)
        assert sum(issubclass(error, kind) for kind in kinds) <= 1


def test_codes_are_distinct() -> None:
    """A code names one error."""
    codes = [error.code for error in ALL_ERRORS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError, 400),
        (errors.Unauthorized, 401),
        (errors.Forbidden, 403),
        (errors.NotFound, 404),
        (errors.Conflict, 409),
        (errors.Gone, 410),
    ],
)
def test_usage_errors_carry_their_http_status(error: type[UsageError], status: int) -> None:
    """Each answer to a caller has its status."""
    assert error("x").http_status == status


def test_as_dict_holds_what_is_known_and_nothing_empty() -> None:
    """The stored form has code and message always, advice and detail only when given."""
    assert errors.PermanentError("no").as_dict() == {"code": "permanent", "message": "no"}
    full = errors.PermanentError("no", code="clone_failed", advice="check it", detail={"exit_code": 128})
    assert full.as_dict() == {
        "code": "clone_failed",
        "message": "no",
        "advice": "check it",
        "detail": {"exit_code": 128},
    }
    assert errors.PermanentError.code == "permanent"  # a code of one error is not the class's
    assert str(full) == "no"


def test_errors_keep_what_the_reader_needs() -> None:
    """A wait the other side asked for and the fields at fault are kept; absent ones have an empty value."""
    assert errors.CapacityError("full", retry_after_s=3.5).retry_after_s == 3.5
    assert errors.TransientError("no").retry_after_s is None
    assert errors.Conflict("no", fields={"status": "completed"}).fields == {"status": "completed"}
    assert errors.NotFound("no").fields == {}


def test_manual_clock_moves_only_when_told() -> None:
    """Time stands still until it is advanced; sleeping advances it and takes no time."""
    clock = ManualClock(start=1000.0)
    assert (clock.now(), clock.monotonic()) == (1000.0, 1000.0)
    clock.advance(2.5)
    began = time.monotonic()
    clock.sleep(3600)  # returns at once: that is what is tested
    assert time.monotonic() - began < 60
    assert (clock.now(), clock.monotonic()) == (4602.5, 4602.5)


def test_manual_clock_refuses_to_go_back() -> None:
    """Time does not go back, and a refused move changes nothing."""
    clock = ManualClock()
    before = clock.now()
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
    assert clock.now() == before


def test_system_clock_is_this_hosts() -> None:
    """The real clock says the host's time, and its monotonic time does not go back."""
    clock = SystemClock()
    assert time.time() - 5 <= clock.now() <= time.time() + 5
    first = clock.monotonic()
    clock.sleep(0)  # zero: only that it may be called
    assert clock.monotonic() >= first


def test_times_are_shown_in_utc() -> None:
    """A stored time is shown with milliseconds and Z; nothing stays nothing."""
    assert isoformat(1_700_000_000.1234) == "2023-11-14T22:13:20.123Z"
    assert isoformat(0.0) == "1970-01-01T00:00:00.000Z"
    assert isoformat(None) is None


@pytest.mark.parametrize(
    ("new", "prefix"),
    [
        (ids.new_owner_id, "owner-"),
        (ids.new_task_id, "task-"),
        (ids.new_run_id, "run-"),
        (ids.new_node_id, "node-"),
        (ids.new_token_id, "token-"),
    ],
)
def test_new_ids_are_distinct_and_say_what_they_name(new: object, prefix: str) -> None:
    """Ids carry their kind, are lower case and never repeat."""
    assert callable(new)
    made = [new() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(one.startswith(prefix) and one == one.lower() and len(one) == len(prefix) + 26 for one in made)


def test_ids_sort_by_time() -> None:
    """An id made later sorts later (to the millisecond)."""
    first = ids.new_run_id()
    end = time.time() + 0.005
    while time.time() < end:
        pass
    assert first < ids.new_run_id()


def test_workspace_and_session_follow_from_the_run() -> None:
    """Asked twice, the same run names the same workspace and session; another run names others."""
    run, other = ids.new_run_id(), ids.new_run_id()
    assert ids.workspace_id_of(run) == ids.workspace_id_of(run) == "ws-" + run[len("run-") :]
    assert ids.session_id_of(run) == ids.session_id_of(run) == "session-" + run[len("run-") :]
    assert ids.workspace_id_of(run) != ids.workspace_id_of(other)
    assert ids.session_id_of(run) != ids.session_id_of(other)
