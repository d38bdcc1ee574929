"""Raw rows through Triton's or KServe's client, unchanged: prints the outputs of each row, one after the other, as JSON.

    raw_rows.py triton|kserve HOST:PORT MODEL LARGEST_BATCH [OUTPUT ...] < columns.json

Without an output, it is softmax.
The input is {column: {"datatype": ..., "data": [...]}}, null for a missing number; of files and of pixels {"datatype": ...,
"base64": [...]}, of pixels with the "shape" of each row. Requests have at most so many rows; of one row, 64 are sent at
once.
"""

import asyncio
import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

KIND, ADDRESS, MODEL, LARGEST = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
OUTPUTS = sys.argv[5:] or ["softmax"]
AT_ONCE = 64 if LARGEST == 1 else 1
TIMEOUT_S = 60


def arrays_of(columns: dict[str, dict[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Each column's type and cells [N, 1], or pixels [N, ...]."""
    arrays = {}
    for name, column in columns.items():
        if "base64" in column:
            contents = [base64.b64decode(content) for content in column["base64"]]
            arrays[name] = (
                column["datatype"],
                (
                    np.array(contents, object).reshape(-1, 1)
                    if column["datatype"] == "BYTES"
                    else np.frombuffer(b"".join(contents), np.uint8).reshape(-1, *column["shape"])
                ),
            )
            continue
        texts = column["datatype"] == "BYTES"
        cells = column["data"] if texts else [np.nan if cell is None else cell for cell in column["data"]]
        arrays[name] = column["datatype"], np.array(cells, object if texts else np.float64).reshape(-1, 1)
    return arrays


def side_by_side(outputs: list[Any]) -> Any:
    return np.concatenate([output.reshape(len(output), -1) for output in outputs], 1)


def triton(parts: list[dict[str, tuple[str, Any]]]) -> list[Any]:
    import tritonclient.grpc as client  # noqa: PLC0415  one of the two packages is there

    server = client.InferenceServerClient(ADDRESS)

    def ask(part: dict[str, tuple[str, Any]]) -> Any:
        inputs = []
        for name, (datatype, cells) in part.items():
            tensor = client.InferInput(name, list(cells.shape), datatype)
            tensor.set_data_from_numpy(cells)
            inputs.append(tensor)
        outputs = [client.InferRequestedOutput(name) for name in OUTPUTS]
        response = server.infer(MODEL, inputs, outputs=outputs, client_timeout=TIMEOUT_S)
        return side_by_side([response.as_numpy(name) for name in OUTPUTS])

    with ThreadPoolExecutor(AT_ONCE) as callers:
        return list(callers.map(ask, parts))


async def kserve(parts: list[dict[str, tuple[str, Any]]]) -> list[Any]:
    from kserve import InferenceGRPCClient, InferInput, InferRequest  # noqa: PLC0415  as above
    from kserve.protocol.infer_type import RequestedOutput  # noqa: PLC0415  as above

    server, callers = InferenceGRPCClient(ADDRESS), asyncio.Semaphore(AT_ONCE)

    async def ask(part: dict[str, tuple[str, Any]]) -> Any:
        inputs = []
        for name, (datatype, cells) in part.items():
            tensor = InferInput(name, list(cells.shape), datatype)
            tensor.set_data_from_numpy(cells)
            inputs.append(tensor)
        request = InferRequest(MODEL, inputs, request_outputs=[RequestedOutput(name) for name in OUTPUTS])
        async with callers:
            response = await server.infer(request, timeout=TIMEOUT_S)
        return side_by_side([output.as_numpy() for output in response.outputs])

    answers = await asyncio.gather(*map(ask, parts))
    await server.close()
    return answers


def main() -> None:
    arrays = arrays_of(json.load(sys.stdin))
    count = len(next(iter(arrays.values()))[1])
    parts = [
        {name: (datatype, cells[at : at + LARGEST]) for name, (datatype, cells) in arrays.items()}
        for at in range(0, count, LARGEST)
    ]
    answers = triton(parts) if KIND == "triton" else asyncio.run(kserve(parts))
    sys.stdout.write(json.dumps(np.concatenate(answers).tolist()))


if __name__ == "__main__":
    main()
