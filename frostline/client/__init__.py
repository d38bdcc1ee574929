"""The gRPC client: `connection.connect` opens a connection to a server."""
