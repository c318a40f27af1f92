"""Pointsman's own metrics: names, labels, buckets. Pure.

The first nine are those of Ray Serve 1.x; their names and labels must not change. Values of labels are configured names
or come from closed lists, so that a client cannot add a series.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

#: Of several processes' values those of a ``gauge`` are summed; of a ``largest`` the maximum is taken.
Kind = Literal["counter", "gauge", "largest", "histogram"]

LATENCY_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
LATENCY_S = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1,
    0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
START_S = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: The outcome of an HTTP request whose head has arrived: exactly one of these.
OUTCOMES = ("delivered", "refused", "failed", "aborted")
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
#: Batch sizes up to this one have their own label; larger ones share a label per power of two.
EXACT_SIZES = 32


class Family(NamedTuple):
    """One metric.

    Attributes:
        labels: names of the labels, in the order of the values.
        bounds: upper bounds of a histogram's buckets, without the infinite one.
        user: whether user code defines it, so that its number of series must be limited.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    user: bool = False


REPLICA = ("backend", "replica")

BACKEND_REQUESTS = Family(
    "serve_backend_request_counter",
    "counter",
    "Queries that the backend has processed, successfully or not.",
    ("backend",),
)
BACKEND_ERRORS = Family(
    "serve_backend_error_counter", "counter", "Queries that the backend has failed to answer.", ("backend",)
)
REPLICA_STARTS = Family(
    "serve_backend_replica_starts",
    "counter",
    "Starts of replicas, by why they were started: initial, scale, failure or update.",
    (*REPLICA, "reason"),
)
QUEUING_LATENCY = Family(
    "serve_backend_queuing_latency_ms",
    "histogram",
    "Milliseconds from a query's arrival in the replica to its start.",
    REPLICA,
    LATENCY_MS,
)
PROCESSING_LATENCY = Family(
    "serve_backend_processing_latency_ms",
    "histogram",
    "Milliseconds that a call of user code took, errors included.",
    (*REPLICA, "batch_size"),
    LATENCY_MS,
)
QUEUED_QUERIES = Family("serve_replica_queued_queries", "gauge", "Queries that wait in the replica.", REPLICA)
PROCESSING_QUERIES = Family("serve_replica_processing_queries", "gauge", "Queries that user code works on.", REPLICA)
HTTP_REQUESTS = Family(
    "serve_num_http_requests", "counter", "HTTP requests, by the route that they matched.", ("route",)
)
ROUTER_REQUESTS = Family(
    "serve_num_router_requests",
    "counter",
    "Requests by HTTP and by handle, copies for shadows not counted.",
    ("endpoint",),
)
RAY_SERVE_1X_FAMILIES = (
    BACKEND_REQUESTS,
    BACKEND_ERRORS,
    REPLICA_STARTS,
    QUEUING_LATENCY,
    PROCESSING_LATENCY,
    QUEUED_QUERIES,
    PROCESSING_QUERIES,
    HTTP_REQUESTS,
    ROUTER_REQUESTS,
)

HTTP_OUTCOMES = Family(
    "serve_http_outcomes_total",
    "counter",
    "What became of HTTP requests: delivered, refused, failed or aborted, and why.",
    ("endpoint", "route", "outcome", "reason"),
)
HTTP_DURATION = Family(
    "serve_http_request_duration_seconds",
    "histogram",
    "Seconds from an HTTP request's arrival to the end of its answer.",
    ("endpoint", "backend"),
    LATENCY_S,
)
SHADOW_DROPPED = Family(
    "serve_num_shadow_dropped",
    "counter",
    "Copies for a shadow that were not sent, since too many were under way.",
    ("endpoint", "backend"),
)
ROUTER_RETRIES = Family(
    "serve_router_retries_total",
    "counter",
    "Calls that a replica did not take or has lost, and that were placed again.",
    ("endpoint", "backend", "reason"),
)
ROUTER_QUEUED = Family(
    "serve_router_queued_queries", "gauge", "Calls that wait for a replica in routers.", ("endpoint", "backend")
)
POLICY_VERSION = Family(
    "serve_endpoint_policy_version", "largest", "Version of the endpoint's traffic policy.", ("endpoint",)
)
BATCH_SIZE = Family("serve_batch_size", "histogram", "Queries in a batch, where the backend batches.", REPLICA, SIZES)
MODELS = Family("serve_num_multiplexed_models", "gauge", "Models that the replica has loaded, by their ids.", REPLICA)
MODEL_LOADS = Family("serve_multiplexed_models_load_counter", "counter", "Models that were loaded.", REPLICA)
MODEL_UNLOADS = Family("serve_multiplexed_models_unload_counter", "counter", "Models that were unloaded.", REPLICA)
MODEL_LOAD_LATENCY = Family(
    "serve_multiplexed_model_load_latency_ms", "histogram", "What it took to load a model.", REPLICA, LATENCY_MS
)
ROLLOUT_STATE = Family(
    "serve_rollout_state",
    "largest",
    "1 for the state of the endpoint's newest rollout.",
    ("endpoint", "backend", "state"),
)
ROLLOUT_WEIGHT = Family(
    "serve_rollout_weight",
    "largest",
    "Share of traffic that the endpoint's newest rollout gives its backend.",
    ("endpoint", "backend"),
)
ROLLOUT_EVIDENCE = Family(
    "serve_rollout_evidence",
    "largest",
    "How far a gate of the endpoint's newest rollout is on its way from 0 to 1, where it turns the backend back.",
    ("endpoint", "backend", "gate"),
)
SHADOW_PAIRS = Family(
    "serve_shadow_pairs_total",
    "counter",
    "Answers of a shadow that were compared: matched or mismatched.",
    ("endpoint", "backend", "outcome"),
)
SHADOW_EVIDENCE = Family(
    "serve_shadow_evidence",
    "largest",
    "How far it is shown, from 0 to 1, that a shadow differs more often than the endpoint's backend does from itself.",
    ("endpoint", "backend"),
)
PROCESS_STARTS = Family("serve_process_starts_total", "counter", "Starts of controllers and ingresses.", ("process",))
LOOP_LAG = Family(
    "serve_loop_lag_seconds",
    "largest",
    "By how much the event loop was late at the worst, in the last seconds.",
    ("process",),
)
AUTOSCALING_DESIRED = Family(
    "serve_autoscaling_desired_replicas",
    "largest",
    "Replicas that the calls for the backend need, before its bounds.",
    ("backend",),
)
AUTOSCALING_WANTED = Family(
    "serve_autoscaling_wanted_replicas", "largest", "Replicas that are decided for the backend.", ("backend",)
)
AUTOSCALING_REQUESTS = Family(
    "serve_autoscaling_total_requests", "largest", "Calls that wait for the backend or run on it.", ("backend",)
)
AUTOSCALING_BLOCKED = Family(
    "serve_autoscaling_blocked",
    "largest",
    "1 while the backend has fewer replicas than are wanted, for want of room or since they fail to start.",
    ("backend",),
)
AUTOSCALING_DECISIONS = Family(
    "serve_autoscaling_decisions_total",
    "counter",
    "Decisions about the backend's number of replicas: up or down, and why.",
    ("backend", "direction", "reason"),
)
REPLICA_START = Family(
    "serve_replica_start_seconds",
    "histogram",
    "Seconds from a replica's launch until it was ready.",
    ("backend",),
    START_S,
)
DROPPED_SERIES = Family(
    "serve_metrics_dropped_total",
    "counter",
    "Values of custom metrics that had to share a series, since their metric has too many.",
    ("name",),
)
ALL_FAMILIES = (
    *RAY_SERVE_1X_FAMILIES,
    HTTP_OUTCOMES,
    HTTP_DURATION,
    SHADOW_DROPPED,
    ROUTER_RETRIES,
    ROUTER_QUEUED,
    POLICY_VERSION,
    BATCH_SIZE,
    MODELS,
    MODEL_LOADS,
    MODEL_UNLOADS,
    MODEL_LOAD_LATENCY,
    ROLLOUT_STATE,
    ROLLOUT_WEIGHT,
    ROLLOUT_EVIDENCE,
    SHADOW_PAIRS,
    SHADOW_EVIDENCE,
    PROCESS_STARTS,
    LOOP_LAG,
    AUTOSCALING_DESIRED,
    AUTOSCALING_WANTED,
    AUTOSCALING_REQUESTS,
    AUTOSCALING_BLOCKED,
    AUTOSCALING_DECISIONS,
    REPLICA_START,
    DROPPED_SERIES,
)


def size_label(size: int) -> str:
    """The label of a batch size: exact up to 32, then rounded up to a power of two."""
    return str(size if size <= EXACT_SIZES else 1 << (size - 1).bit_length())
