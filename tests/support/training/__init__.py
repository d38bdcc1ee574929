"""Helpers of the training tests."""
