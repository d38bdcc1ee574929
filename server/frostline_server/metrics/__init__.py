"""The metrics endpoint: Prometheus families over HTTP; `prometheus.register` and `http.ScrapeServer` are its face."""
