"""Everything the KServe SDK's REST client can do, checked as its user would: `kserve_rest.py URL`."""

import asyncio
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

# The model `linear` of the tests.
WEIGHTS = np.array([[1, 0, -1], [0, 2, 1], [3, -1, 0], [-2, 1, 1]], np.float32)
BIAS = np.array([0.5, 0.0, -0.5], np.float32)


def request_for(x: np.ndarray, model: str, *, binary: bool) -> InferRequest:
    """A request for rows `x`, behind the JSON or in it."""
    tensor = InferInput("input", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="7")


async def ask(url: str) -> None:
    """Every call of the client."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "linear")
    for binary in (True, False):
        response = await client.infer(url, request_for(x, "linear", binary=binary), model_name="linear")
        (output,) = response.outputs
        assert (response.model_name, response.id, output.name) == ("linear", "7", "logits")
        np.testing.assert_allclose(output.as_numpy(), x @ WEIGHTS + BIAS, rtol=1e-5)
    refusal = ""
    try:
        await client.infer(url, request_for(x, "nobody", binary=True), model_name="nobody")
    except httpx.HTTPStatusError as error:
        refusal = str(error)
    assert refusal.startswith(
        "[request id: 7] Request for unknown model: 'nobody' is not found, '404 Not Found' for url"
    ), refusal
    await client.close()


asyncio.run(ask(sys.argv[1]))
