"""The command that serves metrics to Prometheus."""

from __future__ import annotations

import signal
from queue import SimpleQueue

import click

from . import dsn_option, opened, schema_option


@click.command("metrics")
@dsn_option
@schema_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9188,
    show_default=True,
    help="Where to listen; 0 takes any that is free.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at; 0.0.0.0 for all.")
def metrics_command(dsn: str | None, schema: str, port: int, host: str) -> None:
    """Serve metrics of all queues to Prometheus, until SIGTERM or Control-C.

    The role needs the right to observe all queues. What is served is said in docs/metrics.md; while the database
    can't be reached it is pgq_py_up 0, and nothing else.

    \b
        $ pgq-py metrics
        $ pgq-py metrics --port 9188 --host 0.0.0.0
        $ curl http://127.0.0.1:9188/metrics
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server

        from ..metrics import Collector
    except ImportError:
        raise click.ClickException("this needs prometheus-client: pip install 'pgq-py[metrics]'") from None

    # Not an event, whose lock the handler of a second signal would find taken by the first.
    signals: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.put(number))
    with opened(dsn, schema) as pq:
        # Now, and not at each scrape: what a user can put right.
        pq.metrics()
        registry = CollectorRegistry()
        registry.register(Collector(pq))
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise click.ClickException(f"can't listen on {host}, port {port}: {error.strerror}") from error
        click.echo(f"serving http://{host}:{server.server_port}/metrics", err=True)
        signals.get()
        server.shutdown()
        server.server_close()
        thread.join()
