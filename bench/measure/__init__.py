"""The benchmark harness: rounds, scenarios, targets and reports."""
