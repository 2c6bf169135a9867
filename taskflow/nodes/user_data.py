"""What a bought server runs at its first boot. It holds one secret, which is worth nothing once the agent is ready."""

from __future__ import annotations

import json

from taskflow.nodes.providers.base import OrderInvalid

#: The least that the known clouds allow (Hetzner Cloud; others take more).
USER_DATA_BYTES_MAX = 32 * 1024
_HOME = "/var/lib/taskflow"
_UNIT = f"""\
[Unit]
Description=taskflow node agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=/usr/bin/python3 {_HOME}/agent.pyz --root {_HOME}/node --bootstrap {_HOME}/bootstrap.json
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def user_data(*, node_id: str, control_plane_url: str, bootstrap_token: str) -> str:
    """cloud-init's configuration, as JSON, which is YAML too. Raises ``OrderInvalid`` when it is too long."""
    url = control_plane_url.rstrip("/")
    bootstrap = {"control_plane_url": url, "node_id": node_id, "token": bootstrap_token}
    config = {
        "write_files": [
            {"path": f"{_HOME}/bootstrap.json", "permissions": "0600", "content": json.dumps(bootstrap)},
            {"path": "/etc/systemd/system/taskflow-agent.service", "permissions": "0644", "content": _UNIT},
        ],
        "runcmd": [
            ["mkdir", "-p", "-m", "0700", f"{_HOME}/node"],
            [
                "curl", "--fail", "--silent", "--show-error", "--location", "--retry", "30", "--retry-all-errors",
                "--retry-delay", "5", "--output", f"{_HOME}/agent.pyz", f"{url}/agent.pyz",
            ],
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "--now", "taskflow-agent.service"],
        ],
    }  # fmt: skip
    text = "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
    if len(text.encode()) > USER_DATA_BYTES_MAX:
        raise OrderInvalid(f"the user data is {len(text.encode())} bytes, at most {USER_DATA_BYTES_MAX} are taken")
    return text
