"""The delivery of events: assigns positions to change sets and events, posts events to webhooks, sends them to Kafka.

The parent of the handlers keeps a process for the delivery running, like the process of the admin port. With
``forks = -1`` the serving process delivers as well. Of all daemons on a database one delivers: the holder of a lock,
which is released when its session ends. A delivery is recorded afterwards, so a process that is killed in between
causes a second delivery. The holder of another lock assigns positions to change sets, even where events are off.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import UnsatisfiableReadError

from nipap import __version__
from nipap.access import sign_in_rows
from nipap.errors import NipapError
from nipap.history import events, partitions, past, webhook
from nipap.history.change_order import ChangeSequencer
from nipap.history.sequencing import lead
from nipap.history.spans import Spans
from nipap.postgres import advisory, connecting
from nipap.postgres.database import Database, LockNotAvailable
from nipap.postgres.transaction import Transaction
from nipap.rest.objects import encode
from nipap.runtime import waiting
from nipap.runtime.runtime import Runtime
from nipapd import kafka, signals
from nipapd.config import DaemonSettings, KafkaSettings
from nipapd.fibers import Fibers
from nipapd.targets import CheckedResolver, Targets

log = logging.getLogger(__name__)

NAME = b'nipapd-events'  # the name in ps
LOOK_S = 0.25
PAST_S = 10.0  # how often the past is looked at without a new position: a repair may have emptied it
LOOK_SHARE = 5  # a pause is at least so many times as long as the poll before it
MOST_LOOK_PAUSE_S = 5.0  # the longest pause, even after a slow poll: it may have waited for PostgreSQL
HOOKS_S = 1.0  # the interval between readings of the webhooks
REMOVE_S = 60.0
SPANS_S = 5.0
PARTITIONS_S = 60.0
TROUBLE_S = 1.0
ATTEMPT_S = 10.0
CONNECT_S = 5.0
FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 600.0
MOST_ANSWER = 2**16  # bytes of a response, which is thrown away
MOST_CONNECTIONS = 2 * webhook.MOST_WEBHOOKS
LONGEST_ERROR = 300
SESSIONS = 4

Hook = dict[str, Any]


@dataclass(frozen=True)
class Sending:
    """The delivery as a task of a helper process: its inputs, fixed before the process is forked."""

    dsn: str = field(repr=False)  # it may hold a password
    settings: DaemonSettings
    kafka: KafkaSettings

    wanted: ClassVar[bool] = True  # change sets need their positions in any case

    def run(self) -> None:
        """Deliver until SIGTERM."""
        asyncio.run(self._main())

    async def _main(self) -> None:
        fibers = Fibers()
        connecting.use(Runtime(fibers, wait_for_postgresql=fibers.wait_for_postgresql))
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        self.begin(fibers)
        await stop.wait()
        fibers.end()
        signals.ignore((signal.SIGTERM,))

    def begin(self, fibers: Fibers) -> None:
        """Deliver on the running loop until these fibers are ended."""
        fibers.start(Delivery(self, fibers).run)


class Delivery:
    """The delivery to all receivers. Each receiver has a fiber of its own, so that none blocks another."""

    def __init__(self, sending: Sending, fibers: Fibers) -> None:
        self.settings = sending.settings
        self.kafka = sending.kafka
        self.leads = False
        self.last_position = 0
        self.hooks: dict[int, Hook] = {}  # as of the last reading
        limit_s = sending.settings.change_timeout or None
        self.db = Database(sending.dsn, most_sessions=SESSIONS, change_limit_s=limit_s)
        # The session of this database holds the locks.
        self._own = Database(sending.dsn, most_sessions=1, change_limit_s=limit_s)
        # The first step stores all objects in one transaction, whatever its duration.
        self._builder, self._building = past.Builder(), Database(sending.dsn, most_sessions=1)
        self._built = -1  # the position up to which the past is built for certain
        self._fibers = fibers
        self._running: set[object] = set()
        targets = Targets(sending.settings.webhook_allow, sending.settings.webhook_deny)
        self._client = AsyncHTTPClient(
            force_instance=True,
            resolver=CheckedResolver(targets) if targets else None,
            max_clients=MOST_CONNECTIONS,
            max_body_size=MOST_ANSWER,
            max_buffer_size=2 * MOST_ANSWER,
        )
        self._due: dict[str, float] = {}

    def run(self) -> None:
        """Assign positions while this process holds the lock for it, and keep a fiber running for each receiver."""
        self._fibers.become_stream()  # the process may serve requests as well
        changes, sequencer, log_keeper = ChangeSequencer(), events.EventSequencer(), LogKeeper(self._own, self.settings)
        while True:
            began = time.monotonic()
            try:
                if self._own.read(lambda tx: lead(tx, advisory.ORDER)):
                    changes.step(self._own)
                    if changes.last_position > self._built or self._is_due('past', PAST_S):
                        self._keep('past', partial(self._build_past, changes.last_position))
                    self._remove_old_sign_ins()
                    log_keeper.step()
                if self.settings.events:
                    self._deliver(sequencer)
            except NipapError as error:
                self.leads = False
                log.debug('delivery of events is paused: %s', error)
                pause_s = TROUBLE_S
            except Exception:
                self.leads = False
                log.exception('delivery of events is paused')
                pause_s = TROUBLE_S
            else:
                pause_s = min(max(LOOK_S, LOOK_SHARE * (time.monotonic() - began)), MOST_LOOK_PAUSE_S)
            waiting.sleep(pause_s)

    def _deliver(self, sequencer: events.EventSequencer) -> None:
        """Assign positions to events and keep the receivers running, if this process holds the lock for delivery."""
        leads = self._own.read(lambda tx: lead(tx, advisory.DELIVERY))
        if leads != self.leads:
            log.info('events are delivered by %s', 'this process' if leads else 'another daemon')
            self.leads = leads
        if leads:
            while sequencer.step(self._own) >= events.SEQUENCED_AT_ONCE:
                waiting.give_way()
            self.last_position = sequencer.last_position
            self._see_to_receivers()

    def _see_to_receivers(self) -> None:
        if self._is_due('hooks', HOOKS_S):
            self.hooks = self.read_hooks()
            for key in self.hooks:
                self._keep(key, WebhookSender(self, key, self.post).run)
        if self.kafka.enabled:
            self._keep('kafka', kafka.Sender(self, self.kafka).run)
        if self._is_due('remove', REMOVE_S):
            hours = self.settings.event_retention_hours
            while self._own.run(lambda tx: events.remove_old(tx, hours, kafka=self.kafka.enabled)):
                waiting.give_way()

    def _build_past(self, position: int) -> None:
        """Build what is due of the past, up to a position at least.

        A pause as long as each step leaves half of the time to others.
        """
        began = time.monotonic()
        while self._builder.step(self._building):
            waiting.sleep(min(time.monotonic() - began, MOST_LOOK_PAUSE_S))
            began = time.monotonic()
        self._built = position

    def _remove_old_sign_ins(self) -> None:
        days = self.settings.sign_in_days
        if days and self._is_due('sign-ins', REMOVE_S):
            while self._own.run(lambda tx: sign_in_rows.remove_old(tx, days)) >= sign_in_rows.REMOVED_AT_ONCE:
                waiting.give_way()

    def read_hooks(self) -> dict[int, Hook]:
        """Return the present webhooks by id."""
        return {item['id']: item for item in self.db.read(webhook.to_send)}

    def _is_due(self, what: str, each_s: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + each_s
        return True

    def _keep(self, key: object, work: Callable[[], None]) -> None:
        """Run the work of a receiver in a fiber, unless it is running."""
        if key in self._running:
            return

        def kept() -> None:
            try:
                self._fibers.become_stream()
                work()
            except NipapError as error:
                log.debug('delivery of events is paused: %s', error)
                waiting.sleep(TROUBLE_S)
            except Exception:
                log.exception('delivery of events is paused')
                waiting.sleep(TROUBLE_S)
            finally:
                self._running.discard(key)

        self._running.add(key)
        if not self._fibers.start(kept):  # too many requests wait
            self._running.discard(key)

    def post(self, hook: Hook, position: int, body: bytes) -> str | None:
        """Post an event; return None when the receiver took it, else the reason."""
        sent = int(time.time())
        headers = HTTPHeaders(
            {
                'Content-Type': 'application/json',
                'User-Agent': f'nipapd/{__version__}',
                'NIPAP-Event-Id': str(position),
                'NIPAP-Webhook-Id': str(hook['id']),
                'NIPAP-Signature': f't={sent},v1={signature(hook["secret"], sent, body)}',
            }
        )
        try:
            request = HTTPRequest(
                hook['url'],
                'POST',
                headers,
                body,
                connect_timeout=CONNECT_S,
                request_timeout=ATTEMPT_S,
                follow_redirects=False,
                streaming_callback=lambda _: None,
            )
            future = asyncio.ensure_future(self._client.fetch(request, raise_error=False))
            code = self._fibers.result_of(future).code
        except Exception as error:  # a receiver may respond with anything: every error is a failed attempt
            return told(error)
        return None if 200 <= code < 300 else f'HTTP {code}'


def told(error: Exception) -> str:
    """Return the reason of a failed attempt on one line, for users of the webhook."""
    if isinstance(error, UnsatisfiableReadError):
        return 'The headers of the answer are too long'
    if not isinstance(error, HTTPError | OSError | ValueError):
        log.warning('an answer of a webhook cannot be read', exc_info=error)
    text = ' '.join(str(error).split()) or type(error).__name__
    return ''.join(letter if letter.isprintable() else '?' for letter in text[:LONGEST_ERROR])


def signature(secret: str, sent: int, body: bytes) -> str:
    """Return the signature that proves the origin and the time of an event."""
    return hmac.new(secret.encode(), b'%d.%s' % (sent, body), hashlib.sha256).hexdigest()


def pause_after(attempts: int) -> float:
    """Return the pause in seconds after failed attempts: doubled each time, with jitter so that retries spread."""
    return random.uniform(0.5, 1.0) * min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts, 30))


class LogKeeper:
    """The upkeep of the audit log: its spans, and its partitions."""

    def __init__(self, db: Database, settings: DaemonSettings) -> None:
        self._db = db
        self._months = settings.history_months
        self._spans = Spans()
        self._spans_due = 0.0
        self._partitions_due = 0.0
        self._warned = False

    def step(self) -> None:
        """Do what is due. It takes at most some tenths of a second."""
        now = time.monotonic()
        if now >= self._spans_due:
            self._spans_due = now if self._spans.step(self._db) else now + SPANS_S
        if now >= self._partitions_due:
            self._partitions_due = now + (0.0 if self._keep_partitions() else PARTITIONS_S)

    def _keep_partitions(self) -> bool:
        """Take one step of the upkeep of partitions; return whether another one may be due at once."""
        try:
            if not self._db.read(partitions.may_keep):
                self._warn()
                return False
            done = partitions.keep(self._db, self._months)
        except LockNotAvailable:
            log.debug('the upkeep of the audit log waits for locks of other transactions')
            return False
        if done:
            log.info('audit log: %s', done)
        return done is not None

    def _warn(self) -> None:
        if not self._warned:
            log.warning(
                'no partitions of the audit log are made ahead: the role of this daemon may not run keep_partitions, '
                'see docs/security.md'
            )
        self._warned = True


class WebhookSender:
    """Delivers to one webhook, in order, until it is removed or disabled."""

    def __init__(self, delivery: Delivery, key: int, post: Callable[[Hook, int, bytes], str | None]) -> None:
        self._delivery = delivery
        self._db = delivery.db
        self._key = key
        self._post = post

    def run(self) -> None:
        """Deliver events while this process leads and the webhook is enabled."""
        hook = self._hook()
        cursor = hook['cursor'] if hook else 0
        while hook := self._hook():
            if hook['again']:
                self._send_again(hook)
                hook['again'] = False
            late_s = hook['next_attempt'].timestamp() - time.time() if hook['next_attempt'] else 0.0
            if late_s > 0 or cursor >= self._delivery.last_position:
                waiting.sleep(LOOK_S)
                continue
            since = cursor
            cursor = self._deliver(hook, since, self._db.read(lambda tx: events.read(tx, since)))  # noqa: B023 (read now)

    def _hook(self) -> Hook | None:
        return self._delivery.hooks.get(self._key) if self._delivery.leads else None

    def _deliver(self, hook: Hook, cursor: int, found: list[events.Event]) -> int:
        """Send the wanted ones of these events; return the position up to which the events are done."""
        noted = cursor
        for event in found:
            if hook['wanted'].wants(event):
                position = event['id']
                error = self._post(hook, position, encode(event))
                if error is not None:
                    return self._note_failed(hook, cursor, found, error)
                self._db.run(lambda tx: webhook.note_delivered(tx, self._key, position))  # noqa: B023 (run now)
                hook['attempts'], hook['next_attempt'], noted = 0, None, position
            cursor = event['id']
            if self._hook() is not hook and not self._still(hook):
                return cursor
        end = cursor
        if end > noted:
            self._db.run(lambda tx: webhook.pass_by(tx, self._key, end))
        return end

    def _still(self, hook: Hook) -> bool:
        """Return whether the webhook is unchanged: it may have been edited, removed or disabled meanwhile."""
        now = self._hook()
        return now is not None and all(now[name] == hook[name] for name in ('url', 'secret', 'wanted', 'again'))

    def _note_failed(self, hook: Hook, cursor: int, found: list[events.Event], error: str) -> int:
        pause_s = pause_after(hook['attempts'])
        log.info('webhook %d has not taken an event, trying again in %.0f s: %s', self._key, pause_s, error)
        failing_s = self._db.run(lambda tx: webhook.note_failed(tx, self._key, error, pause_s))
        limit_s = self._delivery.settings.webhook_give_up
        if failing_s >= limit_s:
            cursor = self._give_up(hook, cursor, found, error, limit_s)
        self._refresh()
        return cursor

    def _give_up(self, hook: Hook, cursor: int, found: list[events.Event], error: str, limit_s: float) -> int:
        """Make dead letters of the first event, and of the following ones that are older than `limit_s` seconds."""
        oldest = time.time() - limit_s
        lost: list[tuple[int, bytes]] = []
        for event in found:
            if event['id'] <= cursor:
                continue
            if hook['wanted'].wants(event):
                if lost and events.seconds_of(event) > oldest:
                    break
                lost.append((event['id'], encode(event)))
            cursor = event['id']
        end = cursor
        log.warning('webhook %d: %d events are given up after %.0f s: %s', self._key, len(lost), limit_s, error)
        self._db.run(lambda tx: webhook.give_up(tx, self._key, lost, end, error))
        return end

    def _refresh(self) -> None:
        """Read the webhook again."""
        hooks = self._delivery.read_hooks()
        if self._key in hooks:
            self._delivery.hooks[self._key] = hooks[self._key]
        else:
            self._delivery.hooks.pop(self._key, None)

    def _send_again(self, hook: Hook) -> None:
        for letter, event in self._db.read(lambda tx: webhook.due_again(tx, self._key)):
            error = self._post(hook, event['id'], encode(event))

            def note(tx: Transaction, letter: int = letter, error: str | None = error) -> None:
                webhook.note_letter(tx, self._key, letter, error)

            self._db.run(note)
