"""Fuzzing of the server over its socket: broken messages in good calls, and broken frames, beside an honest caller."""
