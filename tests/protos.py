"""Write the Python modules of the protobuf messages again: `python -m tests.protos`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "mlaas" / "inference" / "proto"


def descriptor(proto: Path) -> bytes:
    """The serialised FileDescriptorProto of a .proto file, without comments."""
    from google.protobuf import descriptor_pb2

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        # a process of its own: in one that has TensorFlow or ROOT, whose protobuf is another, the compiler crashes
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", f"--descriptor_set_out={out}", str(proto)]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"{proto} cannot be compiled")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0].SerializeToString(deterministic=True)


def module(proto: Path) -> str:
    """The text of the module."""
    from google.protobuf import descriptor_pb2

    data = descriptor(proto)
    names = [found.name for found in descriptor_pb2.FileDescriptorProto.FromString(data).message_type]
    pieces = [data[start : start + 90] for start in range(0, len(data), 90)]
    lines = [
        f'"""The messages of {proto.name}; written by `python -m tests.protos`."""',
        "",
        "from typing import Any",
        "",
        "from mlaas.inference.proto import messages",
        "",
        "SERIALISED = bytes.fromhex(",
        *(f'    "{piece.hex()}"' for piece in pieces),
        ")",
        "_found = messages(SERIALISED)",
        "",
        *(f'{name}: Any = _found["{name}"]' for name in names),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write them."""
    for proto in sorted(FOLDER.glob("*.proto")):
        proto.with_name(f"{proto.stem}_pb2.py").write_text(module(proto))


if __name__ == "__main__":
    main()
