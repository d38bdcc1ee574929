"""HTTP/1.1 connections: uvicorn's protocol, with limits on what a client can make the server hold."""
