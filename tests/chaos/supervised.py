"""The product's own supervisor with two workers, and with each process behind the link that ``$CHAOS_LINKS`` names.

``python -m tests.chaos.supervised``; settings from the environment. ``CHAOS_LINKS``: JSON, process to settings.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from taskflow.cli.embedded import make_token
from taskflow.settings import Settings
from taskflow.stack.commands import FlowerLogin, stack_specs
from taskflow.stack.data_dir import DataDir
from taskflow.stack.environment import READY_FILE
from taskflow.stack.process import ProcessSpec
from taskflow.stack.supervisor import Supervisor

_LINKS: dict[str, dict[str, str]] = json.loads(os.environ["CHAOS_LINKS"])
_MODULES = {"taskflow.celery": "tests.chaos.worker", "web:create_app()": "tests.chaos.web_app:create_app()"}


def _linked(spec: ProcessSpec) -> ProcessSpec:
    """``spec`` behind its link, as a release of its own."""
    given = _LINKS.get("web" if spec.name == "web" else "worker", {})
    env = {**spec.env, "CHAOS_PROCESS": spec.name, **(given if spec.secrets and not spec.oneshot else {})}
    argv = [_MODULES.get(word, word) for word in spec.argv]
    return dataclasses.replace(spec, argv=argv, env=env)


def _second_worker(spec: ProcessSpec, data_dir: DataDir) -> ProcessSpec:
    path = data_dir.run / "worker-2.ready"
    argv = [f"worker-2-{os.getpid()}@%h" if word.endswith("@%h") else word for word in spec.argv]
    return dataclasses.replace(
        spec, name="worker-2", argv=argv, env={READY_FILE: str(path)},
        before_start=lambda: path.unlink(missing_ok=True), ready=path.exists,
    )  # fmt: skip


def specs(settings: Settings, data_dir: DataDir, flower: FlowerLogin | None) -> list[ProcessSpec]:
    """The stack's processes and a second worker."""
    made = []
    for spec in stack_specs(settings, data_dir, flower):
        made.append(_linked(spec))
        if spec.name == "worker":
            made.append(_linked(_second_worker(spec, data_dir)))
    return made


def main() -> None:
    """Serve until SIGTERM."""
    supervisor = Supervisor(Settings.from_env(), with_flower=False, make_specs=specs)
    supervisor.make_token = lambda: make_token(supervisor.settings, shared=True)
    supervisor.run_forever()


if __name__ == "__main__":
    assert Path(os.environ["CHAOS_DIR"]).is_dir()
    main()
