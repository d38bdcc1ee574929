"""The metrics endpoint: Prometheus families over HTTP.

Its interface is `families.Sources`, `prometheus.register` and `http.MetricsServer`.
"""
