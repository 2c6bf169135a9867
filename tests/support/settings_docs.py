"""Writes docs/reference/settings.md from the table of settings: ``python -m tests.support.settings_docs``."""

from __future__ import annotations

from pathlib import Path

from taskflow.settings import ENV_PREFIX, SettingRow, table

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"

_HEAD = f"""# Settings

Every setting is an environment variable: `{ENV_PREFIX}` and the name in capitals. An empty variable counts as not set.
A wrong value is refused at start with the variable's name; so are two limits of which the inner one is not
shorter than the outer one. Durations are in seconds (s).

This page is made by `python -m tests.support.settings_docs` from `taskflow/settings.py`; a test compares the two.

| variable | default | unit | what it does |
|---|---|---|---|
"""


def _row(row: SettingRow) -> str:
    default = f"{row.default:g}" if isinstance(row.default, float) else str(row.default)
    if isinstance(row.default, bool):
        default = "1" if row.default else "0"
    if isinstance(row.default, float) and float(default) != row.default:
        default = repr(row.default)  # %g keeps six digits
    said = row.help.replace("|", "\\|")
    secret = " Never logged." if row.secret else ""
    return f"| `{row.env}` | {f'`{default}`' if default else 'empty'} | {row.unit} | {said}.{secret} |\n"


def render() -> str:
    """The page as it should be."""
    return _HEAD + "".join(_row(row) for row in table())


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
