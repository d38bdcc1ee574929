"""The OpenAPI document: what the HTTP port answers, for programs that make clients and forms of it."""
