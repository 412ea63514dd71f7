"""Archives of users, unpacked without trusting them: tar (plain, gzip, bzip2, xz) and zip, within limits that hold while they are read.

The caller unpacks into a folder of its own making, and throws it away when this raises.
"""

from __future__ import annotations

from mlaas.unpacking.limits import ArchiveError, Limits, TooLargeError
from mlaas.unpacking.readers import format_of, tar_gzip
from mlaas.unpacking.unpack import Unpacked, unpack

__all__ = ["ArchiveError", "Limits", "TooLargeError", "Unpacked", "format_of", "tar_gzip", "unpack"]
