"""``python -m tests.support.new_migration "what changes"``: writes the migration that the models ask for."""

from __future__ import annotations

import sys
import tempfile

from alembic import command

from taskflow.db.migrate import config, upgrade
from taskflow.db.session import make_engine


def main(message: str) -> None:
    """Compare the models with a database at the last migration, and write the difference as the next one."""
    with tempfile.TemporaryDirectory() as directory:
        engine = make_engine(f"sqlite:///{directory}/head.db")
        upgrade(engine)
        with engine.begin() as connection:
            command.revision(config(connection), message=message, autogenerate=True)
        engine.dispose()


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
