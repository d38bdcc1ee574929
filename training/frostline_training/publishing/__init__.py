"""Model export: ONNX file, proof, artifact folder and smaller variants; `publish.publish` is its face."""
