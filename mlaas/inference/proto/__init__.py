"""The protobuf messages: `*.proto` as people read them, `*_pb2.py` written from those by `python -m tests.protos`.

The messages live in a descriptor pool of their own: other packages in the same process (tritonclient is one) may bring messages of the same names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def messages(serialised: bytes) -> dict[str, Any]:
    """The message classes of a serialised FileDescriptorProto by their names without the package."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto.FromString(serialised)
    pool.Add(file)
    return {found.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{found.name}")) for found in file.message_type}
