"""Where Ansible finds the collection; said before Ansible is imported, which reads it once."""

from __future__ import annotations

import os

from tests.support.collection import collections_path

os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(collections_path())

import tests.xrootd.render  # noqa: F401  it starts Ansible's loader
