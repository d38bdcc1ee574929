"""Dynamic batching: a bounded request queue before device threads; `batcher.Batcher` is its interface."""
