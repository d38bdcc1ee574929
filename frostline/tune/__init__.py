"""The load generator, and the tuner that uses it to find the best batching of a model; `tuner.run` is its face."""
