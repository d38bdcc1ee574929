"""Asks a server with the client that was generated from its OpenAPI document, and writes the answers as JSON.

Usage: generated.py URL PICTURE, in the folder that has the client as the package `generated_client`.
"""

import base64
import io
import json
import sys
from pathlib import Path

from generated_client import Client
from generated_client.api.inference import (
    infer,
    predict_model_churn,
    predict_model_fruit,
    predict_model_linear,
    predict_model_mood,
    predict_model_pair,
    predict_version,
)
from generated_client.api.models import model_metadata, model_ready, model_schema
from generated_client.api.repository import index
from generated_client.api.server import ready, server_metadata
from generated_client.models import (
    Error,
    IndexBody,
    InferRequest,
    InputTensor,
    ModelChurnColumns,
    ModelChurnRequest,
    ModelChurnRow,
    ModelFruitRequest,
    ModelFruitRow,
    ModelLinearRequest,
    ModelMoodRequest,
    ModelMoodRow,
    ModelPairInputs,
    ModelPairRequest,
    PredictRequest,
    RequestedOutput,
)
from generated_client.types import File

url, picture = sys.argv[1], Path(sys.argv[2]).read_bytes()
text = base64.b64encode(picture).decode()
row = ModelChurnRow(tenure=12.5, plan="basic", signup="2024-05-31")
columns = ModelChurnColumns(plan=["pro", None], signup=["2020-02-29", "2024-05-31"])
tensor = InputTensor(name="input", shape=[1, 4], datatype="FP32", data=[1, 2, 3, 4])
pair = ModelPairInputs(left=[[1, 2, 3, 4]], right=[[[1, 2], [3, "NaN"]]])
asked = InferRequest(inputs=[tensor], outputs=[RequestedOutput(name="softmax")], id="7")

with Client(base_url=url) as client:
    answers = {
        "ready": ready.sync(client=client),
        "server": server_metadata.sync(client=client),
        "metadata": model_metadata.sync("linear", client=client),
        "model_ready": model_ready.sync("linear", client=client),
        "schema": model_schema.sync("churn", client=client),
        "row": predict_model_churn.sync(client=client, body=ModelChurnRequest(rows=[row], top_k=1)),
        "columns": predict_model_churn.sync(client=client, body=ModelChurnRequest(rows=columns)),
        "text": predict_model_mood.sync(client=client, body=ModelMoodRequest(rows=[ModelMoodRow(text="great")])),
        "picture": predict_model_fruit.sync(client=client, body=File(payload=io.BytesIO(picture))),
        "pictures": predict_model_fruit.sync(client=client, body=ModelFruitRequest(rows=[ModelFruitRow(image=text)])),
        "numbers": predict_model_linear.sync(client=client, body=ModelLinearRequest(rows=[[1, 2, 3, "Infinity"]])),
        "pair": predict_model_pair.sync(client=client, body=ModelPairRequest(inputs=pair)),
        "version": predict_version.sync("linear", "1", client=client, body=PredictRequest(rows=[[1, 2, 3, 4]])),
        "infer": infer.sync("linear", client=client, body=asked),
    }
    refused = infer.sync_detailed("nobody", client=client, body=asked)
    index_of_all = index.sync(client=client, body=IndexBody(ready=True))
assert isinstance(refused.parsed, Error), refused
told = {name: answer.to_dict() for name, answer in answers.items()}
told["index"] = [each.to_dict() for each in index_of_all]
told["refused"] = [int(refused.status_code), refused.parsed.error]
sys.stdout.write(json.dumps(told))
