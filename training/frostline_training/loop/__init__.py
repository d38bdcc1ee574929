"""The training loop: forward, loss, backward, update; `trainer.train` runs it."""
