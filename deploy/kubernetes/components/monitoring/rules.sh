#!/bin/sh
# The rules and alerts of deploy/prometheus/rules.yml, as the Prometheus operator takes them.
cat <<END
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: frostline
spec:
END
sed 's/^\(.\)/  \1/' "$(dirname "$0")/../../../prometheus/rules.yml"
