"""What a bought server runs at its first boot. It holds one secret, which is worth nothing once the agent is ready.

It says how far it is (``protocol.BOOT_STAGES``), fetches the agent's file and starts it by systemd. The secret is in
files that only root reads, never on a command line, which every process of the server could see. A server that has no
order ``UNCLAIMED_S`` after it was started shuts itself down, whatever kept its agent from it: nobody may know of it.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from taskflow import protocol
from taskflow.nodes.providers.base import OrderInvalid
from taskflow.settings import Settings

#: The least that the known clouds allow (Hetzner Cloud; others take more).
USER_DATA_BYTES_MAX = 32 * 1024
_HOME = "/var/lib/taskflow"
#: Seconds from the start of a server that never gets its order to its end; longer where an agent may take longer.
UNCLAIMED_S = 3600.0
#: KillMode: what runs for a session outlives the agent, which finds it again. A container runtime is nobody's business.
_UNIT = f"""\
[Unit]
Description=taskflow node agent
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 {_HOME}/agent.pyz --root {_HOME}/node --bootstrap {_HOME}/bootstrap.json
Restart=always
RestartSec=5
RestartPreventExitStatus={protocol.AGENT_UNWANTED}
KillMode=process

[Install]
WantedBy=multi-user.target
"""
_UNCLAIMED = f"""\
[Unit]
Description=end of a taskflow node that never got its order

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'test -s {_HOME}/node/order.json || systemctl poweroff'
"""
#: Counted from each start of the machine, by systemd: it needs neither an agent nor a network.
_UNCLAIMED_TIMER = """\
[Unit]
Description=end of a taskflow node that never got its order

[Timer]
OnBootSec=%.0f

[Install]
WantedBy=timers.target
"""
#: They would take the package lock, or restart services, in the middle of somebody's setup.
_UPDATERS = ("apt-daily.timer", "apt-daily-upgrade.timer", "apt-daily.service", "apt-daily-upgrade.service",
             "unattended-upgrades.service")  # fmt: skip
_RETRIES = ("--retry", "30", "--retry-all-errors", "--retry-delay", "5", "--connect-timeout", "10")


def user_data(
    *, node_id: str, control_plane_url: str, bootstrap_token: str, ca_certificates: str = "", ready_s: float = 0.0
) -> str:
    """cloud-init's configuration, as JSON, which is YAML too. Raises ``OrderInvalid`` when it is too long.

    ``ca_certificates``: PEM, by which the control plane is trusted; empty: the system's. ``ready_s``: for how long its
    agent is waited for; it is not shut down before.
    """
    url = control_plane_url.rstrip("/")
    bootstrap: dict[str, Any] = {
        "control_plane_url": url, "node_id": node_id, "token": bootstrap_token, "power_off": True,
    }  # fmt: skip
    if ca_certificates:
        bootstrap["ca_file"] = f"{_HOME}/ca.pem"
    files = [
        _file("bootstrap.json", json.dumps(bootstrap)),
        _file("authorization", f"Authorization: Bearer {bootstrap_token}\n"),
        _unit("agent.service", _UNIT),
        _unit("unclaimed.service", _UNCLAIMED),
        _unit("unclaimed.timer", _UNCLAIMED_TIMER % max(UNCLAIMED_S, ready_s)),
    ]
    if ca_certificates:
        files.append(_file("ca.pem", ca_certificates))
    curl = ["curl", "--fail", "--silent", "--show-error", *(("--cacert", f"{_HOME}/ca.pem") if ca_certificates else ())]
    config = {
        "package_update": False,
        "package_upgrade": False,
        "write_files": files,
        "runcmd": [
            # First of all, and without patience: a server that does not get through says so by its silence.
            _report(curl, url, node_id, "booted"),
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "--now", "taskflow-unclaimed.timer"],
            ["systemctl", "mask", "--now", *_UPDATERS],
            ["mkdir", "-p", "-m", "0700", f"{_HOME}/node"],
            [*curl, "--location", *_RETRIES, "--output", f"{_HOME}/agent.part", f"{url}{protocol.AGENT_FILE}"],
            ["mv", f"{_HOME}/agent.part", f"{_HOME}/agent.pyz"],
            # Only if it is there.
            ["sh", "-c", f"test -s {_HOME}/agent.pyz && {shlex.join(_report(curl, url, node_id, 'agent_fetched'))}"],
            ["rm", "-f", f"{_HOME}/authorization"],
            ["systemctl", "enable", "--now", "taskflow-agent.service"],
        ],
    }  # fmt: skip
    text = "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
    if len(text.encode()) > USER_DATA_BYTES_MAX:
        raise OrderInvalid(f"the user data is {len(text.encode())} bytes, at most {USER_DATA_BYTES_MAX} are taken")
    return text


def ca_certificates(settings: Settings) -> str:
    """What the control plane is trusted by. Raises ``OrderInvalid`` when the file of the settings can't be read."""
    if not settings.public_ca_file:
        return ""
    try:
        return Path(settings.public_ca_file).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise OrderInvalid(f"TASKFLOW_PUBLIC_CA_FILE={settings.public_ca_file!r} can't be read: {error}") from None


def _file(name: str, content: str) -> dict[str, Any]:
    return {"path": f"{_HOME}/{name}", "permissions": "0600", "content": content}


def _unit(name: str, content: str) -> dict[str, Any]:
    return {"path": f"/etc/systemd/system/taskflow-{name}", "permissions": "0644", "content": content}


def _report(curl: list[str], url: str, node_id: str, stage: str) -> list[str]:
    path = protocol.route(protocol.CALLBACK_NODE_BOOT, node_id=node_id, stage=stage)
    return [
        *curl, "--retry", "3", "--retry-delay", "2", "--max-time", "10", "--output", "/dev/null", "--request", "POST",
        "--header", f"@{_HOME}/authorization", f"{url}{path}",
    ]  # fmt: skip
