"""Raw rows through stock clients, each a program of its own: `tests/integration/clients/raw_rows.py` and `raw_rows.cjs`."""

import base64
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Column = Mapping[str, Any]

CLIENTS = Path(__file__).parents[1] / "integration" / "clients"
TIMEOUT_S = 120


def texts(cells: Sequence[str]) -> Column:
    """A column of texts as the clients read it."""
    return {"datatype": "BYTES", "data": list(cells)}


def files(contents: Sequence[bytes]) -> Column:
    """A column of files likewise."""
    return {"datatype": "BYTES", "base64": [base64.b64encode(content).decode() for content in contents]}


def pixels(array: Array) -> Column:
    """A column of pictures of one size likewise, uint8 [N, height, width, channels]."""
    rows = [base64.b64encode(row.tobytes()).decode() for row in array]
    return {"datatype": "UINT8", "shape": list(array.shape[1:]), "base64": rows}


def triton(address: str, model: str, largest: int) -> list[str]:
    """The command of Triton's client, with at most so many rows in a request; 1 for many callers at once."""
    return [sys.executable, str(CLIENTS / "raw_rows.py"), "triton", address, model, str(largest)]


def kserve(python: Path, address: str, model: str, largest: int) -> list[str]:
    """The command of KServe's client likewise, with its own Python."""
    return [str(python), str(CLIENTS / "raw_rows.py"), "kserve", address, model, str(largest)]


def node(program: str, address: str, model: str, largest: int) -> list[str]:
    """The command of a client of grpc-js likewise."""
    return [program, str(CLIENTS / "raw_rows.cjs"), address, model, str(largest)]


def ask(columns: Mapping[str, Column], command: Sequence[str]) -> Array:
    """The probabilities that a client prints that is given the columns."""
    client = subprocess.run(
        command, input=json.dumps(columns), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert client.returncode == 0, client.stdout + client.stderr
    return np.array(json.loads(client.stdout))


def softmax(logits: Array) -> Array:
    """Probabilities of logits [N, C]."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: Array = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities
