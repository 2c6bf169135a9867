"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """``old`` stands exactly once in ``file``; the mutant has ``new`` instead."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One fault. ``tests`` (files, or single tests of them) are asked first; when they notice nothing, all are."""

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
