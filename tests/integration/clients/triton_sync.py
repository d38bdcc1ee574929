"""Ask a server everything through Triton's own blocking client, and print what came as JSON: `triton_sync.py HOST:PORT ROWS`."""

import json
import sys

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

address, rows = sys.argv[1], np.array(json.loads(sys.argv[2]), np.float32)
NAMES = ("logits", "softmax", "argmax")

client = InferenceServerClient(address)
tensor = InferInput("input", list(rows.shape), "FP32")
tensor.set_data_from_numpy(rows)
result = client.infer("linear", [tensor], outputs=[InferRequestedOutput(name) for name in NAMES])
metadata = client.get_model_metadata("linear")
refusal = ""
try:
    wrong = InferInput("wrong", list(rows.shape), "FP32")
    wrong.set_data_from_numpy(rows)
    client.infer("linear", [wrong])
except InferenceServerException as error:
    refusal = error.message()
print(  # noqa: T201  standard output is the answer
    json.dumps(
        {
            "outputs": {name: result.as_numpy(name).tolist() for name in NAMES},
            "live": client.is_server_live(),
            "server_ready": client.is_server_ready(),
            "model_ready": client.is_model_ready("linear"),
            "server": client.get_server_metadata().name,
            "inputs": [[spec.name, spec.datatype, list(spec.shape)] for spec in metadata.inputs],
            "outputs_described": [[spec.name, list(spec.shape)] for spec in metadata.outputs],
            "max_batch_size": client.get_model_config("linear").config.max_batch_size,
            "inference_count": client.get_inference_statistics("linear").model_stats[0].inference_count,
            "index": [[e.name, e.version, e.state] for e in client.get_model_repository_index().models],
            "refusal": refusal,
        }
    )
)
