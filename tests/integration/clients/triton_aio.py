"""Ask a server everything through Triton's own asyncio client, and print what came as JSON: `triton_aio.py HOST:PORT ROWS`."""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

NAMES = ("logits", "softmax", "argmax")


async def ask(address: str, rows: Any) -> dict[str, Any]:
    """Every answer the test looks at."""
    async with InferenceServerClient(address) as client:
        tensor = InferInput("input", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        outputs = [InferRequestedOutput(name) for name in NAMES]
        results = await asyncio.gather(*(client.infer("linear", [tensor], outputs=outputs) for _ in range(8)))
        result = results[-1]
        metadata = await client.get_model_metadata("linear")
        refusal = ""
        try:
            wrong = InferInput("wrong", list(rows.shape), "FP32")
            wrong.set_data_from_numpy(rows)
            await client.infer("linear", [wrong])
        except InferenceServerException as error:
            refusal = error.message()
        return {
            "outputs": {name: result.as_numpy(name).tolist() for name in NAMES},
            "live": await client.is_server_live(),
            "server_ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready("linear"),
            "server": (await client.get_server_metadata()).name,
            "inputs": [[spec.name, spec.datatype, list(spec.shape)] for spec in metadata.inputs],
            "outputs_described": [[spec.name, list(spec.shape)] for spec in metadata.outputs],
            "max_batch_size": (await client.get_model_config("linear")).config.max_batch_size,
            "inference_count": (await client.get_inference_statistics("linear")).model_stats[0].inference_count,
            "index": [[e.name, e.version, e.state] for e in (await client.get_model_repository_index()).models],
            "refusal": refusal,
        }


rows_to_send = np.array(json.loads(sys.argv[2]), np.float32)
print(json.dumps(asyncio.run(ask(sys.argv[1], rows_to_send))))  # noqa: T201  standard output is the answer
