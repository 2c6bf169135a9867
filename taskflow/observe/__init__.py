"""Who listens to the work: counts for Prometheus, traces for OpenTelemetry. Nothing above decides by what is here."""
