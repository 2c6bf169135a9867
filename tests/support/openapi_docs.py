"""Writes docs/reference/openapi.json from the routes: ``python -m tests.support.openapi_docs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from web import create_app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"


def render() -> str:
    """The document as it should be."""
    # No route is called: the document is made from the declarations alone, so the app needs no service.
    app = create_app(service=cast(Any, object()))
    return json.dumps(app.extensions["taskflow.document"], indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
