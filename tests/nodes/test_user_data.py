"""What a bought server is told at its first boot."""

from __future__ import annotations

import json

import pytest

from taskflow.nodes.providers.base import OrderInvalid
from taskflow.nodes.user_data import USER_DATA_BYTES_MAX, user_data


def test_it_is_cloud_config_that_names_the_node_and_holds_one_token() -> None:
    """The only secret in it is the one that is worth nothing once the agent is ready."""
    text = user_data(node_id="node-1", control_plane_url="https://control.example/", bootstrap_token="once")
    assert text.startswith("#cloud-config\n")
    config = json.loads(text.removeprefix("#cloud-config\n"))
    boot = json.loads(config["write_files"][0]["content"])
    assert boot == {"control_plane_url": "https://control.example", "node_id": "node-1", "token": "once"}
    assert config["write_files"][0]["permissions"] == "0600"
    assert text.count("once") == 1
    assert ["systemctl", "enable", "--now", "taskflow-agent.service"] in config["runcmd"]


def test_one_that_is_too_long_is_refused_before_anything_is_bought() -> None:
    """The provider would cut it, or say so after the purchase."""
    with pytest.raises(OrderInvalid, match="bytes"):
        user_data(node_id="n", control_plane_url="https://" + "x" * USER_DATA_BYTES_MAX, bootstrap_token="t")
