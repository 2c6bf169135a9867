"""More than fits: too many tasks, too large results, steps that kill or hang their worker, stores that are full."""
