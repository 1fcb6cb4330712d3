"""Send events to Kafka, if configured; the client library is an extra (``pip install '.[kafka]'``).

Each kind of object has a topic. The key of a message is the id of its object, so that all messages of an object are in
one partition, in order. The position is stored after Kafka has confirmed the messages.
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
    """The state of the delivery: whether this process leads it, and the position of the last event."""

    db: Database
    leads: bool
    last_position: int


def client_settings(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of librdkafka."""
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
        'message.timeout.ms': 0,  # no limit: a later message must not overtake
    }
    return {name: value for name, value in given.items() if value is not None}


def make_producer(settings: dict[str, Any]) -> Any:
    """Return a producer of the client library.

    :raises ModuleNotFoundError: the client library is not installed.
    """
    return importlib.import_module('confluent_kafka').Producer(settings, logger=log)


class Sender:
    """Sends events in order."""

    def __init__(self, delivery: Delivery, settings: KafkaSettings, beside: dict[str, Any] | None = None) -> None:
        self._delivery = delivery
        self._db = delivery.db
        self._prefix = settings.topic_prefix
        self._settings = {**client_settings(settings), **(beside or {})}

    def run(self) -> None:
        """Send events until another process leads the delivery."""
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
            producer = None  # replaced, because the old one would send the rest of its queue in between
            waiting.sleep(pause_s)
            pause_s = min(MOST_PAUSE_S, 2 * pause_s)

    def _hand_over(self, producer: Any, found: list[events.Event]) -> tuple[int | None, str | None]:
        """Produce these events and wait until they are confirmed or refused.

        Return the position up to which all events are confirmed, and why no more are; None for either if there is none.
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
            # An exception of the library, which cannot be named without importing the library, or BufferError.
            except Exception as error:
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
