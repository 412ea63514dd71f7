"""Workspaces: the folders that users upload as archives, each upload a generation of its own that does not change while a job may read it.

    <data>/uploads/unpack-<random>/                     where an archive is unpacked; renamed when it is whole
    <data>/workspaces/<tenant>/<name>/<generation>/     a generation; a runner lets the user of a job read it, nobody else can

A name has one current generation, which new jobs take. The others go when no queued or active job refers to them.
"""

from __future__ import annotations

from mlaas.workspaces.workspaces import Workspaces

__all__ = ["Workspaces"]
