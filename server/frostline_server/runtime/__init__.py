"""ONNX Runtime: sessions on the CPU and on CUDA devices; `session_factory.load_session` opens one."""
