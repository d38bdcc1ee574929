"""A small Frostline server on a real socket, whose model answers with the logits it is sent."""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc, predictor_pb2_grpc
from frostline.pb import predictor_pb2 as typed
from frostline.pb.model_config_pb2 import ModelConfig

MODEL = "echo"
LABELS = ("ant", "bee", "cat")
LIMIT = 4

DTYPES = {
    typed.BOOL: "?",
    typed.FP64: "<f8",
    typed.FP32: "<f4",
    typed.FP16: "<f2",
    typed.UINT8: "u1",
    typed.UINT32: "<u4",
    typed.INT64: "<i8",
}

Failure = tuple[grpc.StatusCode, str]


class FakeServer(predictor_pb2_grpc.PredictorServicer, inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves `echo` version 2: input `input` FP32 [-1, *row_shape], whose first three numbers are the logits.

    Attributes:
        failures: Statuses for the next calls of Predict, in turn; an exhausted list means success.
        trailers: The trailing metadata of those failures.
        requests: The Predict requests seen, attempts of one call counted each.
        headers: The metadata of those.
        silent: When set, Predict answers nothing until its caller has gone.
        asked_metadata: The ModelMetadata requests seen.
        mute: When set, questions about models fail.
        parameters: Those of the model's configuration.
        datatype: The element type of its inputs.
        strict: When set, it refuses what a server would: other types, and more than `LIMIT` rows.
        versions: The versions that answer, in turn; the last one stays. A request for another one finds no model.
        unloaded: The name of a model that the index still has, and nothing else.
        asked: Set when Predict has been called.
        gone: Set when a caller of the silent Predict has gone.
    """

    def __init__(self) -> None:
        self.address = ""
        self.failures: list[Failure] = []
        self.trailers: dict[str, str] = {}
        self.requests: list[typed.PredictRequest] = []
        self.headers: list[dict[str, str]] = []
        self.labels: tuple[str, ...] = LABELS
        self.row_shape: tuple[int, ...] = (3,)
        self.input_names: tuple[str, ...] = ("input",)
        self.silent = False
        self.mute = False
        self.unloaded = ""
        self.datatype = "FP32"
        self.strict = False
        self.versions: list[str] = []
        self.parameters: dict[str, str] = {}
        self.asked_metadata: list[pb.ModelMetadataRequest] = []
        self.ready = True
        self.asked = threading.Event()
        self.gone = threading.Event()

    def Predict(self, request: typed.PredictRequest, context: grpc.ServicerContext) -> typed.PredictResponse:
        self.requests.append(request)
        self.headers.append({key: str(value) for key, value in context.invocation_metadata()})
        self.asked.set()
        if self.silent:
            context.add_callback(self.gone.set)
            self.gone.wait()
        if self.failures:
            context.set_trailing_metadata(tuple(self.trailers.items()))
            context.abort(*self.failures.pop(0))
        if request.model != MODEL:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model}' is not found")
        if self.strict:
            self._check(request, context)
        answer = self._answer(request)
        if len(self.versions) > 1:
            self.versions.pop(0)
        return answer

    def _check(self, request: typed.PredictRequest, context: grpc.ServicerContext) -> None:
        if self.versions and request.version not in ("", self.versions[0]):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model version {request.version}")
        for tensor in request.inputs:
            sent = typed.DataType.Name(tensor.dtype)
            if sent != self.datatype and not (self.datatype == "FP32" and sent in ("UINT8", "INT8", "FP16")):
                context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, f"data-type is '{sent}', but the model expects '{self.datatype}'"
                )
            if tensor.shape[0] > LIMIT:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"batch-size must be <= {LIMIT}")

    def _answer(self, request: typed.PredictRequest) -> typed.PredictResponse:
        sent = request.inputs[0]
        dtype = DTYPES[sent.dtype]
        rows = np.frombuffer(sent.data, dtype).reshape(tuple(sent.shape))
        logits = rows.reshape(len(rows), -1)[:, :3].astype(np.float32)
        softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax /= softmax.sum(axis=1, keepdims=True)
        argmax = logits.argmax(axis=1)
        wanted = list(request.outputs) or ([] if request.top_k else [typed.LOGITS, typed.SOFTMAX, typed.ARGMAX])
        response = typed.PredictResponse(
            model=MODEL,
            version=request.version or (self.versions or ["2"])[0],
            id=request.id,
            task="single-label",
        )
        if typed.VALUES in wanted:
            response.names.extend(self.labels)
            response.values.append(_tensor(logits, typed.FP32, "logits"))
        if typed.LOGITS in wanted:
            response.logits.CopyFrom(_tensor(logits, typed.FP32))
        if typed.SOFTMAX in wanted:
            response.softmax.CopyFrom(_tensor(softmax, typed.FP32))
        if typed.ARGMAX in wanted:
            response.argmax.CopyFrom(_tensor(argmax, typed.INT64))
            response.labels.extend(self.labels[i] for i in argmax if self.labels)
        if request.top_k:
            for row in softmax:
                best = np.argsort(-row, kind="stable")[: request.top_k]
                response.top.add().classes.extend(
                    typed.Class(index=i, label=self.labels[i] if self.labels else "", probability=row[i]) for i in best
                )
        return response

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> pb.RepositoryIndexResponse:
        self._refuse_questions(context)
        index = pb.RepositoryIndexResponse()
        index.models.add(name="broken", version="1", state="UNAVAILABLE", reason="golden check: row 3 is off by 0.5")
        index.models.add(name=MODEL, version="2", state="READY")
        if self.unloaded:
            index.models.add(name=self.unloaded, version="1", state="READY")
        return index

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        self._refuse_questions(context)
        self.asked_metadata.append(request)
        if request.name != MODEL:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        metadata = pb.ModelMetadataResponse(
            name=MODEL, versions=self.versions[:1] or ["2"], platform="onnxruntime_onnx"
        )
        for name in self.input_names:
            metadata.inputs.add(name=name, datatype=self.datatype, shape=[-1, *self.row_shape])
        for name, datatype, shape in (
            ("logits", "FP32", [-1, 3]),
            ("softmax", "FP32", [-1, 3]),
            ("argmax", "INT64", [-1]),
        ):
            metadata.outputs.add(name=name, datatype=datatype, shape=shape)
        return metadata

    def _refuse_questions(self, context: grpc.ServicerContext) -> None:
        if self.mute:
            context.abort(grpc.StatusCode.INTERNAL, "no questions")

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        config = ModelConfig(name=MODEL, max_batch_size=LIMIT)
        config.parameters["frostline.task"].string_value = "single-label"
        for name, value in self.parameters.items():
            config.parameters[name].string_value = value
        return pb.ModelConfigResponse(config=config)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready)

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        if request.name != MODEL:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        return pb.ModelReadyResponse(ready=self.ready)


def _tensor(array: Any, dtype: typed.DataType, name: str = "") -> typed.Tensor:
    return typed.Tensor(name=name, dtype=dtype, shape=array.shape, data=array.tobytes())


@contextmanager
def fake_server(
    *, max_message_bytes: int = -1, credentials: grpc.ServerCredentials | None = None
) -> Iterator[FakeServer]:
    """A fake server on a free port of this machine."""
    fake = FakeServer()
    options = [("grpc.max_receive_message_length", max_message_bytes), ("grpc.so_reuseport", 0)]
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=options)
        predictor_pb2_grpc.add_PredictorServicer_to_server(fake, server)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
        address = "127.0.0.1:0"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        fake.address = f"127.0.0.1:{port}"
        server.start()
        try:
            yield fake
        finally:
            fake.gone.set()
            server.stop(None).wait()
