"""A deployment in stages, with a rollback."""
