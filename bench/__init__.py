"""Benchmarks of the server and of training.

They measure a running server from outside, as its users would.
"""

import os

# ONNX Runtime's own wheels report usage to their maker unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
