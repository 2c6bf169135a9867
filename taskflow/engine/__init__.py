"""The durable runner. It knows runs, steps, alarms, leases and signals; it knows no task, node, Celery or SQL.

Read it in this order: ``outcomes`` (what a step may decide), ``pipeline`` (the step table), ``store`` (what it asks of
SQL), ``control`` (what it asks of Redis), ``runner`` (the turn), ``alarms`` (ringing), ``rescue`` (the slow backup).
"""
