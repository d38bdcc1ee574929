"""Predictions of rows as people hold them, in JSON."""
