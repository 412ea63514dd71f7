"""Files below a folder that jobs or users write to: nothing there is trusted, so no link is followed and nothing but plain files is opened.

Every component of a path is opened by itself, relative to the folder before it and without following links (openat, O_NOFOLLOW), so that a
writer who swaps a folder for a link in the meantime gains nothing. The root itself is trusted: it lies in a folder that only the service writes.
"""

from __future__ import annotations

from mlaas.beneath.files import DEPTH, Entry, NotPlainError, is_text, open_beneath, read_beneath, walk_beneath
from mlaas.beneath.trees import remove_tree, usage_beneath

__all__ = ["DEPTH", "Entry", "NotPlainError", "is_text", "open_beneath", "read_beneath", "remove_tree", "usage_beneath", "walk_beneath"]
