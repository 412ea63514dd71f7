"""The ttH-like toy events of the demo, the tests and the benchmark: what can be chosen."""

from __future__ import annotations

from typing import Literal

Process = Literal["background", "signal", "ttz", "mixed"]
Profile = Literal["brief", "seed"]
Layout = Literal["counters", "vector", "rntuple"]
Compression = Literal["zlib", "lz4", "zstd", "none"]
PROCESSES: tuple[Process, ...] = ("background", "signal", "ttz", "mixed")
PROFILES: tuple[Profile, ...] = ("brief", "seed")
LAYOUTS: tuple[Layout, ...] = ("counters", "vector", "rntuple")
COMPRESSIONS: tuple[Compression, ...] = ("zlib", "lz4", "zstd", "none")
