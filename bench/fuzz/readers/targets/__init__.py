"""The targets: for each reader its valid inputs, and what must hold whatever comes."""
