"""Workloads and load generators: the networks, the requests and the programs that send them."""
