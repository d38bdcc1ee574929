"""Pictures of the dashboards: real servers under load, a real Prometheus, and every panel drawn from its JSON."""
