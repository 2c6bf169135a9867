"""Hiding secret values in a stream of bytes, wherever its reads happen to be cut."""

from __future__ import annotations

from collections.abc import Iterable

MASK = b"***"
SHORTEST_SECRET = 4  # characters; hiding shorter ones would shred the output and say what they are


class Masker:
    """Replaces each occurrence of a secret by ``***``. Feed it the stream, then ``finish``.

    What could be the beginning of a secret is held back until the next bytes decide; that is always less than the
    longest secret. Overlapping occurrences are hidden as one, so that no part of either is left.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        values = set()
        for secret in secrets:
            # A shell's ``echo $X`` drops the newline that a secret read from a file ends with.
            values |= {value for value in (secret, secret.strip()) if len(value) >= SHORTEST_SECRET}
        self._secrets = sorted((value.encode("utf-8", "surrogateescape") for value in values), key=len)
        self._held = b""
        self._hidden = 0  # that many first bytes of _held lie inside an occurrence whose mask is already out

    def feed(self, data: bytes) -> bytes:
        """The masked bytes that are certain after ``data``."""
        buffer = self._held + data
        return self._emit(buffer, self._certain(buffer))

    def finish(self) -> bytes:
        """The masked rest."""
        return self._emit(self._held, len(self._held))

    def _certain(self, buffer: bytes) -> int:
        """Where the longest tail begins that could still become a secret."""
        border = len(buffer)
        for secret in self._secrets:
            for length in range(min(len(secret) - 1, len(buffer)), len(buffer) - border, -1):
                if secret[length - 1] == buffer[-1] and buffer.endswith(secret[:length]):
                    border = len(buffer) - length
                    break
        return border

    def _spans(self, buffer: bytes) -> list[tuple[int, int]]:
        found = [(0, self._hidden)] if self._hidden else []
        for secret in self._secrets:
            at = buffer.find(secret)
            while at >= 0:
                found.append((at, at + len(secret)))
                at = buffer.find(secret, at + 1)
        merged: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    def _emit(self, buffer: bytes, border: int) -> bytes:
        out = []
        at = 0
        spans = self._spans(buffer)
        mask_is_out, self._hidden = self._hidden > 0, 0
        for start, end in spans:
            if start >= border:
                break
            out.append(buffer[at:start])
            if not (mask_is_out and start == 0):
                out.append(MASK)
            at = min(end, border)
            self._hidden = max(0, end - border)
        out.append(buffer[at:border])
        self._held = buffer[border:]
        if border == 0 and mask_is_out:
            self._hidden = spans[0][1]
        return b"".join(out)
