"""The inference runtime: ONNX Runtime sessions on the CPU and on CUDA; `session_factory.load_session` opens one."""
