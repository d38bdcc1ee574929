"""The metrics endpoint: Prometheus families over HTTP; `prometheus.register` and `http.MetricsServer` are its interface."""
