"""The workload and the load generators: networks, requests, and the programs that send them."""
