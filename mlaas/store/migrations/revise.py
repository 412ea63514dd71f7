"""Write a new migration from the difference between the tables and the migrations so far: python -m mlaas.store.migrations.revise "message"."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from mlaas.settings import Settings
from mlaas.store.database import configuration, connect, migrate, writing


def revise(engine: Engine, message: str) -> list[Path]:
    """Write the next revision, r<number>_<message>.py; read it before it is committed."""
    config = configuration()
    config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
    last = sum(1 for _ in ScriptDirectory.from_config(config).walk_revisions())
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        made = command.revision(config, message, autogenerate=True, rev_id=f"{last + 1:04d}")
    return [Path(script.path) for script in (made if isinstance(made, list) else [made]) if script is not None]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        database = connect(Settings(data=Path(folder)))
        migrate(database)
        print(*revise(database, " ".join(sys.argv[1:]) or "change"))
