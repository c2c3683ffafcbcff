"""The metrics that Prometheus reads at /metrics. No label ever holds a user, a clinic, a study or a query."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DECISIONS = Counter("gateway_decisions", "Requests decided", ["outcome"])
DECISION_SECONDS = Histogram(
    "gateway_decision_seconds",
    "Time to decide a request",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0),
)
SEARCH_SECONDS = Histogram(
    "gateway_search_seconds", "Time to answer a study search", buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
)
OWNER_LOOKUPS = Counter("gateway_owner_lookups", "Studies whose owner was asked for", ["source"])
REGISTRY_UP = Gauge("gateway_registry_up", "1 while the gateway hears the registry's changes")
KEYS = Gauge("gateway_signing_keys", "Signing keys known; 0 means that no token can be checked")
WARMED = Counter("gateway_studies_warmed", "Studies whose metadata was put into the proxy's cache", ["outcome"])
ACCESS_PENDING = Gauge("gateway_access_log_pending", "Access log rows not yet in the registry")
ACCESS_LOST = Counter("gateway_access_log_lost", "Access log rows that are in the journal only")
