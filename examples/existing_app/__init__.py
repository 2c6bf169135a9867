"""A Celery application that existed before, with a task of its own, and a pipeline that runs on the same workers."""
