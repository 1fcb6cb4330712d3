"""Traces of calls, sent to a collector with OpenTelemetry. No other module uses OpenTelemetry's SDK.

To be imported only when traces are configured, and before the fork, since a handler may be unable to read the files of
libraries. Objects with threads are created in the handler.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace import sampling as otel_sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nipap import __version__
from nipap.runtime import tracer
from nipap.runtime.tracer import CallRecord, Cursor
from nipapd.config import TracingSettings

TRACE_ID = 'X-Trace-ID'
EXPORTERS = {
    'http': 'opentelemetry.exporter.otlp.proto.http.trace_exporter',
    'grpc': 'opentelemetry.exporter.otlp.proto.grpc.trace_exporter',
}
# Faults of the daemon itself: unexpected errors, an unreachable database, an unknown outcome.
OWN_FAULTS = range(1000, 1100)
CONTROL = ('SET', 'BEGIN')  # first words of statements that only prepare the next one

_CONTEXT = TraceContextTextMapPropagator()
_RESOURCE = Resource.create({'service.name': 'nipapd', 'service.version': __version__})


def prepare(settings: TracingSettings) -> None:
    """Import the exporters. Raises ImportError."""
    for kind in _endpoints(settings):
        importlib.import_module(EXPORTERS[kind])


def _endpoints(settings: TracingSettings) -> dict[str, str]:
    endpoints = {'http': settings.otlp_http_endpoint, 'grpc': settings.otlp_grpc_endpoint}
    return {kind: endpoint for kind, endpoint in endpoints.items() if endpoint}


class Tracing(tracer.Tracer):
    """Traces the calls of one handler. To be created in the handler."""

    def __init__(self, settings: TracingSettings) -> None:
        resource = _RESOURCE.merge(Resource({'process.pid': os.getpid()}))
        self._provider = TracerProvider(
            resource=resource, sampler=_sampler(settings.otel_traces_sampler), shutdown_on_exit=False
        )
        for kind, endpoint in _endpoints(settings).items():
            self._provider.add_span_processor(BatchSpanProcessor(_exporter(kind, endpoint)))
        self._tracer = self._provider.get_tracer('nipapd', __version__)
        self.header = TRACE_ID if settings.trace_id_header else None

    def stop(self, limit_s: float) -> None:
        """Send the remaining spans to the collector, for at most `limit_s` seconds."""
        stopping = threading.Thread(target=self._provider.shutdown, daemon=True)
        stopping.start()
        stopping.join(limit_s)

    def begin(self, call: CallRecord, environ: Mapping[str, Any]) -> None:
        carrier = {
            name: environ[key]
            for name, key in (('traceparent', 'HTTP_TRACEPARENT'), ('tracestate', 'HTTP_TRACESTATE'))
            if key in environ
        }
        span = self._tracer.start_span(
            f'{environ["REQUEST_METHOD"]} {environ.get("PATH_INFO", "")}',
            context=_CONTEXT.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=_of_request(environ, call),
        )
        call.span = span
        call.trace_id = format_trace_id(span.get_span_context().trace_id)

    def end(self, call: CallRecord, status: int) -> None:
        span: Span = call.span
        if span.is_recording():
            span.update_name(call.method if call.method != '-' else 'unknown')
            span.set_attributes(_of_call(call, status))
            if status >= 500 or call.fault in OWN_FAULTS:
                span.set_status(StatusCode.ERROR)
        span.end()

    def execute(self, call: CallRecord, cursor: Cursor, statement: Any, args: Any, prepared: Mapping[str, str]) -> None:
        if not call.span.is_recording():
            cursor.execute(statement, args)
            return
        span = self._tracer.start_span('SQL', context=set_span_in_context(call.span), kind=SpanKind.CLIENT)
        try:
            cursor.execute(statement, args)
            span.set_attribute('db.response.returned_rows', max(0, cursor.rowcount))
        except BaseException as exc:
            code = getattr(exc, 'pgcode', None)
            span.set_attribute('error.type', code or type(exc).__name__)
            if code:
                span.set_attribute('db.response.status_code', code)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            _describe(span, tracer.without_values(cursor.query or b'', prepared))
            span.end()


def _exporter(kind: str, endpoint: str) -> SpanExporter:
    exporter: SpanExporter = importlib.import_module(EXPORTERS[kind]).OTLPSpanExporter(endpoint=endpoint)
    return exporter


def _sampler(text: str) -> otel_sampling.Sampler:
    """Return the sampler. If the text has no ratio, OpenTelemetry's own environment variable gives it."""
    name, _, ratio = text.partition('=')
    try:
        default = min(1.0, max(0.0, float(os.environ.get('OTEL_TRACES_SAMPLER_ARG', ''))))
    except ValueError:
        default = 1.0
    roots: dict[str, otel_sampling.Sampler] = {
        'always_on': otel_sampling.ALWAYS_ON,
        'always_off': otel_sampling.ALWAYS_OFF,
        'traceidratio': otel_sampling.TraceIdRatioBased(float(ratio or default)),
    }
    root = roots[name.removeprefix('parentbased_')]
    return otel_sampling.ParentBased(root) if name.startswith('parentbased_') else root


def _of_request(environ: Mapping[str, Any], call: CallRecord) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        'http.request.method': environ['REQUEST_METHOD'],
        'url.path': environ.get('PATH_INFO', ''),
        'url.scheme': environ.get('wsgi.url_scheme', 'http'),
        'server.address': environ.get('SERVER_NAME', ''),
        'server.port': int(environ.get('SERVER_PORT') or 0),
        'network.protocol.name': 'http',
        'network.protocol.version': environ.get('SERVER_PROTOCOL', '').removeprefix('HTTP/'),
        'client.address': call.peer,
        'nipap.request_id': call.request_id,
    }
    agent = environ.get('HTTP_USER_AGENT')
    return attributes | {'user_agent.original': agent} if agent else attributes


def _of_call(call: CallRecord, status: int) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        'rpc.method': call.method,
        'rpc.service': 'nipap',
        'enduser.id': call.user,
        'http.response.status_code': status,
        'nipap.fault_code': call.fault or 0,
    }
    if call.source is not None:
        attributes['nipap.authoritative_source'] = call.source
    if call.fault is not None:
        attributes['error.type'] = str(call.fault)
    return attributes


def _describe(span: Span, text: str) -> None:
    operation = _operation(text.split(';'))
    span.update_name(operation)
    span.set_attributes(
        {
            'db.system': 'postgresql',
            'db.system.name': 'postgresql',
            'db.operation.name': operation,
            'db.query.text': text,
        }
    )


def _operation(statements: Sequence[str]) -> str:
    """Return the first word of the first statement that does not begin with one of CONTROL."""
    words = [word.upper() for statement in statements for word in statement.split(maxsplit=1)[:1]]
    return next((word for word in words if word not in CONTROL), words[0] if words else 'SQL')
