"""Conformance checks: a real server's answers against ONNX Runtime's own, on models that others made.

Nothing here is timed, and nothing here imports the server: what is expected comes from ONNX Runtime in this process.
"""
