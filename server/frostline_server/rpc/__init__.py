"""The gRPC front end: every method of the Open Inference Protocol; `server.Transport` starts and stops it."""
