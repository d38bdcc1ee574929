"""The metrics endpoint: Prometheus families over HTTP.

Its face is `families.Sources`, `prometheus.register` and `http.MetricsServer`.
"""
