"""An inference server for ONNX models: finds verified networks in a folder and answers predictions over gRPC."""

import os

# ONNX Runtime's own wheels report usage to their maker unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
