"""The one settings object: what a site or a user sets once, by environment variables `MLAAS_*`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of this installation; each is read from the environment variable MLAAS_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="MLAAS_", extra="ignore")

    cache: Path = Field(
        Path("~/.cache/mlaas").expanduser(),
        description="Folder of specs and handled data; share it between the machines that prepare and those that fit.",
    )
    memory_limit: str = Field(
        "", description='Most memory for estimators that need all data at once, e.g. "4GB"; empty allows half of what is available.'
    )
    progress: bool = Field(True, description="Show progress bars on a terminal, and progress lines elsewhere.")


def settings() -> Settings:
    """The settings as the environment gives them now."""
    return Settings()
