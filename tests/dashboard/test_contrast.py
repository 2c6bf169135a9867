"""The colours of both themes can be read: WCAG AA for text, and for the edges of what is pressed or drawn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from web.dashboard import frame

_CSS = (Path(frame.__file__).parent / "static" / "app.css").read_text()
_TEXT, _EDGE = 4.5, 3.0
_BLOCK = re.compile(r"(:root[^{]*)\{([^}]*)\}")
_COLOUR = re.compile(r"--([a-z-]+): (#[0-9a-f]{6});")
_STATES = ("good", "bad", "waiting", "running", "idle")
_LOG = tuple(f"c-{name}" for name in ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"))
PAIRS = [
    *((text, ground, _TEXT) for text in ("text", "minor") for ground in ("ground", "card", "sunk", "log", "hit")),
    *((text, "card", _TEXT) for text in ("link", "bad")),
    ("link", "ground", _TEXT), ("link", "sunk", _TEXT), ("bad", "sunk", _TEXT), ("accent-text", "accent", _TEXT),
    *((state, f"{state}-ground", _TEXT) for state in _STATES),
    *((colour, ground, _TEXT) for colour in _LOG for ground in ("log", "hit")),
    *(("text", f"{state}-ground", _TEXT) for state in _STATES),
    ("log", "text", _TEXT), ("text", "hit-at", _TEXT), ("card", "bad", _TEXT),
    ("ground", "text", _TEXT), ("line-strong", "card", _EDGE), ("accent", "card", _EDGE),
    *((f"{fill}-fill", "card", _EDGE) for fill in ("good", "bad", "running")),
]  # fmt: skip


def _themes() -> dict[str, dict[str, str]]:
    found = [(selector.strip(), dict(_COLOUR.findall(body))) for selector, body in _BLOCK.findall(_CSS)]
    (light,), (chosen,), (system,) = (
        [colours for selector, colours in found if selector == wanted]
        for wanted in (":root", ':root[data-theme="dark"]', ':root:not([data-theme="light"])')
    )
    return {"light": light, "dark": light | chosen, "the system's dark": light | system}


def _light(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_can_be_read_on_its_ground(theme: str) -> None:
    """Also in the output of commands, whose colours the theme decides."""
    colours = _themes()[theme]
    bad = []
    for one, other, least in PAIRS:
        low, high = sorted((_light(colours[one]), _light(colours[other])))
        contrast = (high + 0.05) / (low + 0.05)
        if contrast < least:
            bad.append(f"{one} on {other}: {contrast:.2f}")
    assert bad == []


def test_the_chosen_dark_is_the_systems_dark() -> None:
    """One theme, said twice, because a style sheet can't say it once."""
    themes = _themes()
    assert themes["dark"] == themes["the system's dark"]
