"""The gRPC server: every method of the Open Inference Protocol; `server.Transport` starts and stops it."""
