"""Evaluation on held-out rows: scores with intervals, and the calibration of probabilities."""
