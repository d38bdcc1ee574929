#!/bin/sh
# The rules and alerts of deploy/prometheus, as the Prometheus operator takes them.
cat <<END
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: frostline
spec:
  groups:
END
for rules in rules slo; do
  sed '1,/^groups:$/d; s/^\(.\)/  \1/' "$(dirname "$0")/../../../prometheus/$rules.yml"
done
