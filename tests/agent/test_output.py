"""The output of a session: masked, cut, in order, without gap or duplicate."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from taskflow import protocol
from taskflow.agent.masking import Masker
from tests.agent.control_plane import Callback
from tests.agent.rig import SESSION, AgentRig
from tests.support.waiting import wait_until


def test_secrets_are_masked_wherever_the_reads_are_cut(agent: AgentRig) -> None:
    """A secret written in two pieces, half a second apart, never reaches file or control plane."""
    agent.ready()
    agent.run(
        "sh",
        "-c",
        'a=${TOKEN%??????}; printf "x%s" "$a"; sleep 0.5; printf "%sy\\n" "${TOKEN#$a}"; echo "$TOKEN" >&2; echo ab',
        secrets={"TOKEN": "sesame-open-1234", "SHORT": "ab"},
    )
    assert agent.control_plane.output(SESSION) == b"x***y\n***\nab\n"


def test_secrets_are_neither_on_disk_nor_in_a_command_line(agent: AgentRig) -> None:
    """While the session runs and after, no file under the root, no argv, and no log holds the value."""
    agent.ready()
    secret = "very-secret-value-4711"
    agent.begin(
        "sh", "-c", 'echo "$KEY"; echo on; sleep 1; test "$KEY" = very-secret-v"alue-4711"', secrets={"KEY": secret}
    )
    agent.wait_output(b"on")
    wanted = secret.encode()

    def holders() -> list[str]:
        files = [path for path in agent.root.rglob("*") if path.is_file()] + [agent.log]
        found = [str(path) for path in files if wanted in path.read_bytes()]
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found += [str(path)] if wanted in path.read_bytes() else []
            except OSError:
                continue
        return found

    assert holders() == []
    assert agent.outcome()["exit_code"] == 0, "the command itself had the value"
    assert holders() == []


def test_the_output_is_cut_at_its_limit_with_a_marker(agent: AgentRig) -> None:
    """Beyond the limit nothing is kept, a line says so, and the command runs on to its end."""
    agent.ready()
    outcome = agent.run("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' a; exit 4", log_limit_bytes=200_000)
    assert (outcome["exit_code"], outcome["log_truncated"]) == (4, True)
    output = agent.control_plane.output(SESSION)
    assert output[:200_000] == b"a" * 200_000
    assert output[200_000:] == b"\n[taskflow: output cut at 200000 bytes]\n"
    assert all(
        len(call.body["data"]) <= protocol.LOG_CHUNK_BYTES_MAX * 4 / 3 + 4
        for call in agent.control_plane.received("/logs")
    )


def test_lost_answers_cost_neither_gap_nor_duplicate(agent: AgentRig) -> None:
    """Chunks whose answer was lost, or answered 500, are sent again with the same bytes; the outcome comes last."""
    agent.ready()
    counter = itertools.count()

    def fault(callback: Callback) -> int | None:
        if not callback.path.endswith("/logs"):
            return None
        return {0: 0, 1: 500}.get(next(counter) % 4)

    agent.control_plane.fault = fault
    agent.begin(
        "sh",
        "-c",
        "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); [ $((i%500)) = 0 ] && sleep 0.4; done; true",
    )
    outcome = agent.outcome(timeout_s=60)
    assert agent.control_plane.output(SESSION) == b"".join(f"line {i}\n".encode() for i in range(2000))
    assert agent.control_plane.changed_chunks == []
    paths = [call.path for call in agent.control_plane.callbacks if "/sessions/" in call.path]
    assert paths[-1].endswith("/outcome")
    assert len(paths) > outcome["log_chunks"] + 1, "the faults did not hit"


def test_a_control_plane_that_forgot_chunks_gets_them_again(agent: AgentRig) -> None:
    """``next`` below what was sent: the sender goes back, with the same bytes."""
    agent.ready()
    agent.begin("sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.4; done")
    logs = wait_until(
        lambda: next((chunks for chunks in agent.control_plane.chunks.values() if len(chunks) >= 3), None), "3 chunks"
    )
    assert logs is not None
    logs.clear()
    agent.outcome()
    assert agent.control_plane.output(SESSION) == b"1\n2\n3\n4\n5\n6\n"


def test_refused_logs_do_not_hold_the_outcome_back(agent: AgentRig) -> None:
    """A final answer to a chunk ends the log, not the report."""
    agent.ready()
    agent.control_plane.fault = lambda callback: 400 if callback.path.endswith("/logs") else None
    assert agent.run("echo", "x")["exit_code"] == 0
    assert len(agent.control_plane.received("/logs")) == 1


@pytest.mark.parametrize(
    ("secrets", "text", "masked"),
    [
        (["abcd"], "xabcdy", "x***y"),
        (["abcd", "abcdef"], "abcdef-abcd-abcdeg", "***-***-***eg"),
        (["abcdef", "efgh"], "abcdefgh", "***"),
        (["aaaa"], "aaaaaaab aaa", "***b aaa"),
        (["abcd"], "abcdabcd", "******"),
        (["key1\n"], "key1 x key1\n", "*** x ***"),
        (["abc", ""], "abc", "abc"),
        (["schlüssel"], "der schlüssel da", "der *** da"),
    ],
)
def test_masking_does_not_depend_on_the_cuts(secrets: list[str], text: str, masked: str) -> None:
    """However the stream is cut into reads, the result is the same and holds no secret."""
    data = text.encode()
    for size in range(1, len(data) + 1):
        masker = Masker(secrets)
        out = b"".join(masker.feed(data[at : at + size]) for at in range(0, len(data), size)) + masker.finish()
        assert out.decode() == masked, f"reads of {size}"


def test_masking_holds_for_random_streams() -> None:
    """Random secrets over a small alphabet, random cuts: equal to masking the whole at once, and nothing leaks."""
    chance = random.Random(4711)
    for _ in range(500):
        secrets = ["".join(chance.choices("ab", k=chance.randint(4, 8))) for _ in range(3)]
        data = "".join(chance.choices("abc", k=60)).encode()
        whole = Masker(secrets)
        wanted = whole.feed(data) + whole.finish()
        masker, out, at = Masker(secrets), b"", 0
        while at < len(data):
            step = chance.randint(1, 7)
            out += masker.feed(data[at : at + step])
            at += step
        out += masker.finish()
        assert out == wanted
        assert not any(secret.encode() in out for secret in secrets)
