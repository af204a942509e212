"""The metrics of one server process."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The instruments of one application. Routes are labelled by template, because paths are unlimited."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        labels = ("method", "route")
        self._requests = Counter("http_requests", "Responses sent.", (*labels, "status"), registry=self.registry)
        self._seconds = Histogram(
            "http_request_duration_seconds", "Response time.", labels, buckets=_SECONDS, registry=self.registry
        )
        self._cache: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.in_progress = Gauge("http_requests_in_progress", "Requests in progress.", registry=self.registry)
        self.errors = Counter("register_errors", "Errors by class.", ("error",), registry=self.registry)
        self.event_loop_lag = Gauge(
            "event_loop_lag_seconds", "Delay of the event loop's last wake-up.", registry=self.registry
        )

    def watch_pool(self, engine: AsyncEngine, size: int) -> None:
        """Report the engine's connection pool, read at each scrape; requests may take `size` connections."""
        self.registry.register(_PoolCollector(engine, size))

    def _instruments(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        # Looking up instruments by their labels takes longer than counting.
        instruments = self._cache.get((method, route, status))
        if instruments is None:
            instruments = self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)
            self._cache[method, route, status] = instruments
        return instruments

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        requests, durations = self._instruments(method, route, status)
        requests.inc()
        durations.observe(seconds)


class _PoolCollector:
    def __init__(self, engine: AsyncEngine, size: int) -> None:
        self._engine = engine
        self._size = size

    def collect(self) -> Iterator[GaugeMetricFamily]:
        pool = self._engine.pool
        if isinstance(pool, QueuePool):
            yield GaugeMetricFamily("db_pool_size", "Connections that requests may take.", value=self._size)
            yield GaugeMetricFamily(
                "db_pool_checked_out",
                "Connections in use.",
                value=pool.checkedout(),
            )
            yield GaugeMetricFamily("db_pool_idle", "Connections open and free.", value=pool.checkedin())
