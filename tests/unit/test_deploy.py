"""What is deployed is what the code says: units, containers, and the proxy's site, each looked at by its own tool."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskflow.settings import Settings, table
from taskflow.stack import commands
from taskflow.stack.environment import READY_FILE
from tests.support.house import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
COMPOSE = ROOT / "compose.yaml"
#: Where the units expect the release.
_BIN = "/opt/taskflow/current/bin"
#: Variables that are no settings: how a supervisor is told that a process is ready.
_KNOWN = {row.env for row in table()} | {READY_FILE}
#: Variables of the proxy's, the database's and Flower's own that an example may set.
_OTHERS = {"POSTGRES_PASSWORD", "VALKEY_PASSWORD", "FLOWER_BASIC_AUTH"}


def commands_of(worker: str, schedule: str, flower_host: str) -> dict[str, list[str]]:
    """What each process is started with, without the path of Python."""
    settings = Settings()
    flower = [part.replace(f"--address={commands.FLOWER_HOST}", f"--address={flower_host}")
              for part in commands.flower_argv(settings.flower_port)]  # fmt: skip
    found = {
        "web": commands.web_argv(), "worker": commands.worker_argv(worker), "flower": flower,
        "beat": commands.beat_argv(Path(schedule)), "nodehost": commands.nodehost_argv(),
        "migrate": commands.migrate_argv(),
    }  # fmt: skip
    return {name: argv[1:] for name, argv in found.items()}


def unit(name: str) -> dict[str, str]:
    """The section [Service] of a unit."""
    parser = RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "systemd" / name)
    return dict(parser["Service"])


def test_units_start_the_same_commands_as_the_supervisor() -> None:
    """Each ExecStart is the command line of the stack, with Python where the release is."""
    expected = commands_of("%i", "/var/lib/taskflow/celerybeat-schedule", commands.FLOWER_HOST)
    for name, argv in expected.items():
        service = unit(f"taskflow-{'worker@' if name == 'worker' else name}.service")
        started = shlex.split(service["ExecStart"].replace("(", "\\(").replace(")", "\\)").replace("%%", "%"))
        assert started == [f"{_BIN}/python", *argv], name
        assert service["User"] != "root" and service["NoNewPrivileges"] == "yes"
        assert int(service.get("TimeoutStopSec", "90")) >= 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """``systemd-analyze verify`` says nothing, with Python at a place that exists here."""
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace(f"{_BIN}/python", sys.executable))
    (tmp_path / "taskflow-worker@.service").rename(tmp_path / "taskflow-worker@1.service")
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *files],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, [line for line in done.stderr.splitlines() if "taskflow" in line]) == (0, [])


def compose() -> dict[str, Any]:
    """compose.yaml, its anchors resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def test_containers_start_the_same_commands_as_the_supervisor() -> None:
    """Each command is the command line of the stack; what they share has a health check and few rights."""
    services = compose()["services"]
    expected = commands_of("1", "/tmp/celerybeat-schedule", "0.0.0.0")
    assert set(services) == {*expected, "postgres", "valkey"}
    for name, argv in expected.items():
        said = shlex.split(services[name]["command"].replace("(", "\\(").replace(")", "\\)"))
        said = ["-m", *said] if said[0] == "taskflow" else said[1:]
        assert said == argv, name
        assert services[name]["cap_drop"] == ["ALL"] and services[name]["env_file"] == "deploy/compose.env"
    assert [name for name in services if "healthcheck" not in services[name]] == ["migrate"]
    published = [port for one in services.values() for port in one.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="no docker compose here",
)
def test_docker_takes_the_compose_file(tmp_path: Path) -> None:
    """``docker compose config`` finds no mistake."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "compose.env").write_text((DEPLOY / "compose.env.example").read_text())
    (tmp_path / "compose.yaml").write_text(COMPOSE.read_text())
    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "file", [COMPOSE, ROOT / "Dockerfile", *sorted(path for path in DEPLOY.rglob("*") if path.is_file())],
    ids=lambda path: path.name,
)  # fmt: skip
def test_every_variable_is_a_setting_and_no_secret_is_in_it(file: Path) -> None:
    """A name that is misspelt would be ignored, and everybody who copies the file would believe it."""
    text = file.read_text()
    assert set(re.findall(r"\bTASKFLOW_[A-Z0-9_]+", text)) - _KNOWN == set()
    for name, value in re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE):
        assert name in _KNOWN | _OTHERS or file.suffix != ".example", name
        if re.search(r"PASSWORD|SECRET|AUTH|://[^@]*@", f"{name}={value}") and file.suffix == ".example":
            assert "change-me" in value, name


def test_the_image_has_what_it_copies_and_is_not_root() -> None:
    """What .dockerignore leaves out can't be copied; what is installed is an extra of ours."""
    lines = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        part for line in lines if line.startswith("COPY ") and "--from" not in line for part in line.split()[1:-1]
    }
    assert copied <= let_in and all((ROOT / name).exists() for name in copied)
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 10001:10001"
    extras = re.search(r"\$\{wheel\}\[([\w,]+)\]", "\n".join(lines))
    assert extras is not None
    metadata = RawConfigParser()
    metadata.read(ROOT / "setup.cfg")
    assert set(extras.group(1).split(",")) <= set(metadata["options.extras_require"])


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx here")
def test_nginx_takes_the_site(tmp_path: Path) -> None:
    """``nginx -t`` on the site as it is, but for its certificate and ports that need no rights."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=taskflow.example",
         "-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    site = (DEPLOY / "nginx.conf").read_text().replace("/etc/ssl/taskflow", str(tmp_path))
    site = site.replace("/var/log/nginx", str(tmp_path))
    site = re.sub(r"    http2 on;.*\n", "", site)  # Debian 12 has an nginx that does not know it yet
    site = site.replace("443 ssl", "18443 ssl").replace("listen 80", "listen 18080")
    site = site.replace("[::]:443", "[::]:18443").replace("[::]:80", "[::]:18080")
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}} http {{ access_log off; {temporary}\n{site}\n}}\n"
    )
    done = subprocess.run(
        ["nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_proxy_passes_callbacks_as_long_as_the_web_takes_them() -> None:
    """A shorter limit would refuse what the web accepts, and the agent could do nothing about it."""
    from web.auth import CALLBACK_BODY_BYTES_MAX

    site = (DEPLOY / "nginx.conf").read_text()
    assert f"client_max_body_size {CALLBACK_BODY_BYTES_MAX // 2**20}m;" in site
    assert f"server 127.0.0.1:{Settings().port};" in site and "proxy_buffering off;" in site


def test_the_proxy_lets_go_of_an_idle_connection_before_the_web_does() -> None:
    """Else a callback now and then is sent on a connection that is being closed, and answered 502."""
    kept = re.search(r"keepalive_timeout (\d+)s;", (DEPLOY / "nginx.conf").read_text())
    assert kept is not None
    page = (ROOT / "docs" / "how-to" / "deploy" / "reverse-proxy.md").read_text()
    web_s = runpy.run_module("taskflow.stack.gunicorn_conf")["keepalive"]
    assert int(kept.group(1)) < web_s and f"after {web_s} seconds" in page
