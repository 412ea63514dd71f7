"""The Open Inference Protocol over gRPC, in each worker process beside HTTP; the processes share the port (SO_REUSEPORT)."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import numpy as np

from mlaas.auth.identity import Identity
from mlaas.errors import UserError
from mlaas.inference import tensors
from mlaas.inference.figures import Figures
from mlaas.inference.open_inference import model_metadata, reference_of, server_metadata
from mlaas.inference.predictions import Predictions
from mlaas.inference.proto import open_inference_pb2 as messages
from mlaas.inference.served import Array
from mlaas.inference.tokens import Tokens
from mlaas.settings import Settings
from mlaas.web import logs
from mlaas.web.errors import problem_of
from mlaas.web.problem import Problem
from mlaas.web.stopping import stopping

logger = logging.getLogger(__name__)
SERVICE = "inference.GRPCInferenceService"
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
Message = Any
Stop = Callable[[], Awaitable[None]]


async def start(settings: Settings, predictions: Predictions, tokens: Tokens, figures: Figures) -> Stop:
    """Serve; returns what ends it, letting running calls finish. Raises UserError when the port cannot be had."""
    limit = settings.inference_body_limit
    options = [("grpc.so_reuseport", 1), ("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((_handlers(Calls(predictions, tokens), figures),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        _ = server.add_secure_port(address, credentials(settings)) if settings.tls_certificate else server.add_insecure_port(address)
    except RuntimeError:
        raise UserError(f"MLAAS_GRPC_PORT: {address} cannot be listened on; stop what listens there or choose another port") from None
    await server.start()
    logger.debug("listening on %s (gRPC)", address)

    async def stop() -> None:
        await server.stop(settings.shutdown_timeout)

    return stop


def credentials(settings: Settings) -> Any:
    """The certificate and key of the settings. Raises UserError when they cannot be read."""
    if settings.tls_certificate is None or settings.tls_key is None:
        raise UserError("MLAAS_TLS_KEY: a certificate and its key belong together; set both or neither")
    try:
        return grpc.ssl_server_credentials([(settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())])
    except OSError as error:
        raise UserError(f"MLAAS_TLS_CERTIFICATE: {error.filename} cannot be read: {error.strerror}") from None


def _handlers(calls: Calls, figures: Figures) -> Any:
    methods = {}
    for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"):
        request, response = getattr(messages, f"{name}Request"), getattr(messages, f"{name}Response")
        method = _guarded(name, getattr(calls, name), figures)
        methods[name] = grpc.unary_unary_rpc_method_handler(method, request.FromString, response.SerializeToString)
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _guarded(name: str, method: Callable[[Message, Any], Awaitable[Message]], figures: Figures) -> Callable[[Message, Any], Awaitable[Message]]:
    """A method that tells errors as gRPC does, and is counted."""

    async def call(request: Message, context: Any) -> Message:
        begin, status = time.perf_counter(), 200
        try:
            return await method(request, context)
        except Exception as error:
            logs.begin(route=f"{SERVICE}/{name}")
            problem = problem_of(error)
            status = problem.status
            context.set_trailing_metadata([(key.lower(), value) for key, value in problem.headers.items()])
            await context.abort(CODES.get(problem.status, grpc.StatusCode.INTERNAL), problem.detail)
        finally:
            figures.answered(f"{SERVICE}/{name}", "gRPC", status, time.perf_counter() - begin)

    return call


class Calls:
    """The methods of the service, by the names of the protocol."""

    def __init__(self, predictions: Predictions, tokens: Tokens) -> None:
        self._predictions = predictions
        self._tokens = tokens

    async def _caller(self, context: Any) -> Identity:
        for name, value in context.invocation_metadata():
            if name == "authorization":
                authorization = value.encode("latin-1", "replace") if isinstance(value, str) else value
                return self._tokens.known(authorization) or await self._tokens.identity(authorization)
        return await self._tokens.identity(b"")

    async def ServerLive(self, _request: Message, _context: Any) -> Message:  # noqa: N802
        """Whether the process answers."""
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: Message, _context: Any) -> Message:  # noqa: N802
        """Whether it takes requests."""
        return messages.ServerReadyResponse(ready=not stopping())

    async def ServerMetadata(self, _request: Message, _context: Any) -> Message:  # noqa: N802
        """Name, version, extensions."""
        return messages.ServerMetadataResponse(**server_metadata())

    async def ModelReady(self, request: Message, context: Any) -> Message:  # noqa: N802
        """Whether a model can be asked; loads it where needed."""
        identity = await self._caller(context)
        try:
            await self._predictions.model(reference_of(request.name, request.version), identity)
        except Problem as problem:
            if problem.status in (404, 503):
                return messages.ModelReadyResponse(ready=False)
            raise
        return messages.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Message, context: Any) -> Message:  # noqa: N802
        """Inputs and outputs of a model."""
        identity = await self._caller(context)
        served = await self._predictions.model(reference_of(request.name, request.version), identity)
        document = model_metadata(served, request.name, self._predictions.pool.versions(request.name, identity))
        for tensor in (*document["inputs"], *document["outputs"]):
            tensor.pop("parameters", None)
        return messages.ModelMetadataResponse(**document)

    async def ModelInfer(self, request: Message, context: Any) -> Message:  # noqa: N802
        """Outputs of a model. The answer's tensors are raw bytes where those of the request are."""
        identity = await self._caller(context)
        served = await self._predictions.model(reference_of(request.model_name, request.model_version), identity)
        outputs = await self._predictions.tensors(served, inputs_of(request), [output.name for output in request.outputs])
        response = messages.ModelInferResponse(model_name=request.model_name, model_version=str(served.version), id=request.id)
        add_outputs(response, outputs, raw=bool(request.raw_input_contents))
        return response


def inputs_of(request: Message) -> dict[str, Array]:
    """The tensors of a request. Raises Problem."""
    raw = request.raw_input_contents
    if not request.inputs or (raw and len(raw) != len(request.inputs)):
        raise Problem(400, f"the request has {len(request.inputs)} inputs, but {len(raw)} raw_input_contents", field="raw_input_contents")
    found: dict[str, Array] = {}
    for position, tensor in enumerate(request.inputs):
        if not tensor.name or tensor.name in found:
            raise Problem(400, f"inputs[{position}] must have a name of its own", field=f"inputs[{position}].name")
        if raw:
            found[tensor.name] = tensors.from_bytes(tensor.name, tensor.datatype, list(tensor.shape), raw[position])
        else:
            found[tensor.name] = _from_contents(tensor)
    return found


def _from_contents(tensor: Message) -> Array:
    tensors.dtype_of(tensor.name, tensor.datatype)
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise Problem(400, f"inputs.{tensor.name}: {tensor.datatype} goes in raw_input_contents only", field=f"inputs.{tensor.name}")
    values = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        return tensors.from_texts(tensor.name, list(tensor.shape), list(values))
    return tensors.from_array(tensor.name, tensor.datatype, list(tensor.shape), np.array(values))


def add_outputs(response: Message, outputs: Mapping[str, Array], raw: bool) -> None:
    """Put tensors into a response."""
    for name, array in outputs.items():
        datatype = tensors.dtype_name(array.dtype)
        tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw or datatype not in CONTENTS:
            response.raw_output_contents.append(tensors.to_bytes(array))
        elif datatype == "BYTES":
            tensor.contents.bytes_contents.extend(text.encode() for text in tensors.texts(array))
        else:
            getattr(tensor.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
