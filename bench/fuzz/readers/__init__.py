"""Fuzzing of the readers, guided by coverage: whatever bytes come, they are read right or refused with a reason."""
