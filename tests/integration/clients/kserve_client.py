"""Everything the KServe SDK's gRPC client can do, checked as its user would: `kserve_client.py HOST:PORT`."""

import asyncio
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

# The model `linear` of the tests.
WEIGHTS = np.array([[1, 0, -1], [0, 2, 1], [3, -1, 0], [-2, 1, 1]], np.float32)
BIAS = np.array([0.5, 0.0, -0.5], np.float32)


def request_for(x: np.ndarray, model: str, *, binary: bool) -> InferRequest:
    """A request for rows `x`, as raw bytes or in typed fields."""
    tensor = InferInput("input", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="7")


async def ask(address: str) -> None:
    """Every call of the client."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    async with InferenceGRPCClient(address, timeout=30) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("linear")
        for binary in (True, False):
            response = await client.infer(request_for(x, "linear", binary=binary))
            (output,) = response.outputs
            assert (response.model_name, response.id, output.name) == ("linear", "7", "logits")
            np.testing.assert_allclose(output.as_numpy(), x @ WEIGHTS + BIAS, rtol=1e-5)
        refusal = grpc.StatusCode.OK
        try:
            await client.infer(request_for(x, "nobody", binary=True))
        except grpc.RpcError as error:
            refusal = error.code()
        assert refusal == grpc.StatusCode.NOT_FOUND


asyncio.run(ask(sys.argv[1]))
