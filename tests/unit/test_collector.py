"""Headers for a collector, in the form that OpenTelemetry's own exporters read."""

from __future__ import annotations

import pytest

from nipapd.collector import configured_headers


@pytest.mark.parametrize(
    ('environ', 'headers'),
    [
        ({}, {}),
        ({'OTEL_EXPORTER_OTLP_HEADERS': 'api-key=secret'}, {'api-key': 'secret'}),
        ({'OTEL_EXPORTER_OTLP_HEADERS': 'a=1, b=x%20y,c'}, {'a': '1', 'b': 'x y'}),
        (
            {'OTEL_EXPORTER_OTLP_HEADERS': 'a=1', 'OTEL_EXPORTER_OTLP_TRACES_HEADERS': 'authorization=Basic%20eA=='},
            {'authorization': 'Basic eA=='},
        ),
    ],
)
def test_headers(environ: dict[str, str], headers: dict[str, str]) -> None:
    assert configured_headers(environ) == headers
