"""Access control: who a caller is, and which methods a caller may use."""
