"""Several processes behind one address: the supervisor, which starts them and speaks for all of them.

Its interface is `supervisor.run`. It imports nothing that a model needs, so that it stays small.
"""
