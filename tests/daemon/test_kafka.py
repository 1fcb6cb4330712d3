"""Events to Kafka: NOT a real one, but the mock cluster of librdkafka, over a socket."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import REPOSITORY, poll
from support import DaemonFactory
from test_events import Client, sender_of

confluent_kafka = pytest.importorskip('confluent_kafka')
PATIENCE_S = 40.0


@pytest.fixture
def mock_cluster() -> Iterator[str]:
    """The address of a mock cluster."""
    holder = confluent_kafka.Producer({'bootstrap.servers': 'none', 'test.mock.num.brokers': 1})
    (broker,) = holder.list_topics(timeout=10).brokers.values()
    yield f'{broker.host}:{broker.port}'
    holder.flush(1)


def consumer_of(address: str) -> Any:
    settings = {'bootstrap.servers': address, 'group.id': 'test', 'auto.offset.reset': 'earliest'}
    return confluent_kafka.Consumer({**settings, 'topic.metadata.refresh.interval.ms': 200})


def test_a_mock_cluster_gets_every_event_of_an_object_in_order(
    daemon: DaemonFactory, database_options: dict[str, str], mock_cluster: str
) -> None:
    path = f'{REPOSITORY}{os.pathsep}{Path(confluent_kafka.__file__).parents[1]}'
    running = daemon(
        config={
            'nipapd': {**database_options, 'forks': '1'},
            'kafka': {'enabled': 'true', 'brokers': mock_cluster, 'topic_prefix': 't.'},
        },
        env={'PYTHONPATH': path},
    )
    client = Client(running)
    ids = [client.add(n) for n in range(5)]
    os.kill(sender_of(running), 9)
    for i in ids:
        client.ask('PATCH', f'/prefixes/{i}', {'description': 'y'})
    client.ask('POST', '/asns', {'asn': 7, 'name': 'seven'})
    consumer = consumer_of(mock_cluster)
    consumer.subscribe(['t.prefix', 't.asn'])
    got: list[tuple[str, str, dict[str, Any]]] = []

    def complete() -> bool:
        message = consumer.poll(0.5)
        if message is not None and not message.error():
            got.append((message.topic(), message.key().decode(), json.loads(message.value())))
        return len({event['id'] for _, _, event in got}) == 11

    poll(complete, PATIENCE_S, lambda: f'{len(got)} events have come; {running.log()}')
    consumer.close()
    for topic, key, event in got:
        assert (topic, key) == (f't.{event["object"]["kind"]}', str(event['object']['id']))
    for i in ids:
        actions = dict.fromkeys(event['action'] for _, key, event in got if key == str(i))
        assert list(actions) == ['add', 'edit']
