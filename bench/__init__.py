"""Measures a running server from outside, as its users would."""
