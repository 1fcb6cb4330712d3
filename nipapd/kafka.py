"""Hands events to Kafka, when that is configured; the client library is an extra (``pip install '.[kafka]'``).

One topic for each kind of object. The key of a message is the id of its object, so that all of one object are in one
partition, in order. How far they were handed over is noted when Kafka has confirmed it.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any, Protocol

from nipap.history import events
from nipap.postgres.database import Database
from nipap.rest.objects import encode
from nipap.runtime import waiting
from nipapd.config import KafkaSettings

log = logging.getLogger(__name__)

LOOK_S = 0.25
POLL_S = 0.01
FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 60.0


class Delivery(Protocol):
    """What is known beside: whether this process delivers, and how far events have come."""

    db: Database
    leads: bool
    last_position: int


def client_settings(settings: KafkaSettings) -> dict[str, Any]:
    """What librdkafka is told."""
    given = {
        'bootstrap.servers': settings.brokers,
        'security.protocol': settings.security_protocol,
        'sasl.mechanism': settings.sasl_mechanism,
        'sasl.username': settings.sasl_username,
        'sasl.password': settings.sasl_password,
        'ssl.ca.location': settings.ssl_cafile,
        'client.id': 'nipapd',
        'acks': 'all',
        'enable.idempotence': True,
        'message.timeout.ms': 0,  # as long as it takes: what comes behind must not overtake
    }
    return {name: value for name, value in given.items() if value is not None}


def make_producer(settings: dict[str, Any]) -> Any:
    """A producer of the client library.

    :raises ModuleNotFoundError: it is not installed.
    """
    return importlib.import_module('confluent_kafka').Producer(settings, logger=log)


class Sender:
    """Hands over what there is, in order."""

    def __init__(self, delivery: Delivery, settings: KafkaSettings, beside: dict[str, Any] | None = None) -> None:
        self._delivery = delivery
        self._db = delivery.db
        self._prefix = settings.topic_prefix
        self._settings = {**client_settings(settings), **(beside or {})}

    def run(self) -> None:
        """Hand over until another process delivers."""
        cursor = int(self._db.run(events.kafka_cursor))
        producer, pause_s = None, FIRST_PAUSE_S
        while self._delivery.leads:
            if cursor >= self._delivery.last_position:
                waiting.sleep(LOOK_S)
                continue
            since = cursor
            found = self._db.read(lambda tx: events.read(tx, since))  # noqa: B023 (read now)
            producer = producer or make_producer(self._settings)
            done, problem = self._hand_over(producer, found)
            cursor = done if done is not None else cursor
            if problem is None:
                pause_s = FIRST_PAUSE_S
                continue
            log.error('Kafka has not taken an event, trying again in %g s: %s', pause_s, problem)
            producer = None  # a new one: what the old one still has would come between
            waiting.sleep(pause_s)
            pause_s = min(MOST_PAUSE_S, 2 * pause_s)

    def _hand_over(self, producer: Any, found: list[events.Event]) -> tuple[int | None, str | None]:
        """Wait until these events are confirmed or refused.

        Returns the position up to which all are confirmed, and why no more are.
        """
        outcomes: dict[int, str] = {}
        for event in found:
            position = event['id']

            def note(error: object, _message: object, position: int = position) -> None:
                outcomes[position] = str(error) if error else ''

            key, topic = str(event['object']['id']).encode(), f'{self._prefix}{event["object"]["kind"]}'
            headers = [('nipap-event-id', str(position).encode())]
            try:
                producer.produce(topic, encode(event), key, headers=headers, on_delivery=note)
            except Exception as error:  # the library's own, which is not there to be named, and BufferError
                outcomes[position] = str(error)
                break
        while producer.poll(0) or (len(producer) and self._delivery.leads):
            waiting.sleep(POLL_S)
        return self._note(found, outcomes)

    def _note(self, found: list[events.Event], outcomes: dict[int, str]) -> tuple[int | None, str | None]:
        done, delivered, problem = None, 0, None
        for event in found:
            problem = outcomes.get(event['id'], 'no answer')
            if problem:
                break
            done, delivered = event['id'], delivered + 1
        failed = bool(problem)
        self._db.run(lambda tx: events.note_kafka(tx, done, delivered, failed=failed))
        return done, problem or None
