"""The protobuf messages are those of the .proto files, and agree with the ones that clients bring."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2

from mlaas.inference.proto import open_inference_pb2, tfaas_pb2
from tests.protos import FOLDER, descriptor


@pytest.mark.parametrize("module", [open_inference_pb2, tfaas_pb2])
def test_the_modules_are_written_from_the_files(module):
    proto = FOLDER / f"{module.__name__.rpartition('.')[2].removesuffix('_pb2')}.proto"
    written, now = (descriptor_pb2.FileDescriptorProto.FromString(data) for data in (module.SERIALISED, descriptor(proto)))
    assert written == now, "run python -m tests.protos"


def test_the_messages_are_those_of_clients():
    from tritonclient.grpc import service_pb2

    def compare(ours, theirs):
        for field in ours.fields:
            if (ours.name, field.name) != ("ModelMetadataResponse", "properties"):  # an addition of the protocol that this client does not know
                other = theirs.fields_by_name[field.name]
                assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), field.full_name
        for nested in ours.nested_types:
            if nested.name != "PropertiesEntry":
                compare(nested, theirs.nested_types_by_name[nested.name])

    file = descriptor_pb2.FileDescriptorProto.FromString(open_inference_pb2.SERIALISED)
    for message in file.message_type:
        compare(getattr(open_inference_pb2, message.name).DESCRIPTOR, getattr(service_pb2, message.name).DESCRIPTOR)
    [service] = file.service
    methods = service_pb2.DESCRIPTOR.services_by_name[service.name].methods_by_name
    assert all(method.output_type == f".{methods[method.name].output_type.full_name}" for method in service.method)


def test_published_bytes_are_understood():
    # key "a", value 1.5, model "m", written by hand from the wire format
    row = tfaas_pb2.Row.FromString(b"\x0a\x01a\x12\x04\x00\x00\xc0\x3f\x1a\x01m")
    assert (list(row.key), list(row.value), row.model) == (["a"], [1.5], "m")
    answer = tfaas_pb2.Predictions()
    answer.prediction.add(label="s", probability=0.5)
    assert answer.SerializeToString() == b"\x0a\x08\x0a\x01s\x15\x00\x00\x00\x3f"
