"""The model configuration: pure functions from a config.pbtxt to decisions."""
