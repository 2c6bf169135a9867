"""How lengths of time, numbers and amounts are written for people, in the terminal and on pages alike."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """A length of time; ``-`` for none."""
    if seconds is None:
        return "-"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days {hours % 24} h" if hours % 24 else f"{hours // 24} days"


def money(amount: float | None) -> str:
    """An amount: cents, and more digits where it is less than that; ``-`` for none."""
    if amount is None:
        return "-"
    return f"{amount:.2f}" if amount == 0 or amount >= 0.01 else f"{amount:.4f}"


def number(value: float) -> str:
    """A number as one types it: all of its digits, no exponent, no zeros behind the point."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
