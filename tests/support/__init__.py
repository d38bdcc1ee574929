"""Builders, fakes and servers that several test modules use."""
