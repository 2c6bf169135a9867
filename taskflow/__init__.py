"""taskflow: durable tasks on Celery, Redis, Flask and SQLAlchemy."""

__version__ = "0.1.0"
