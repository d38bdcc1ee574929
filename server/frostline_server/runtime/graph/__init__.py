"""The ONNX graph before it is opened: what it ends at, what is appended to it, and what its operators imply."""
