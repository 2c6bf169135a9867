"""The agent task: get a node, prepare a workspace, run a command in it, follow it to the end, clean up.

``table`` is the step table; ``placement``, ``workspace``, ``session`` and ``closing`` hold its steps in that order.
"""

from taskflow.pipelines.agent_task.table import AGENT_TASK, agent_task_pipeline

__all__ = ["AGENT_TASK", "agent_task_pipeline"]
