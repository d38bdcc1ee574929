"""The HTTP/2 front end: gRPC on sockets of its own, with limits on everything that a client can make it hold."""
