"""The migrations: `env.py` runs them for Alembic, `revise.py` writes a new one."""
