"""The wire contracts, generated from `proto/`; this file is written by hand.

They are known in a pool of their own: other clients bring the same public protocol under other file names, and in protobuf's
default pool whichever of the two is imported second would fail.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
"""Where the contracts are known."""
