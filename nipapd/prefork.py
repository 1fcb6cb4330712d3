"""The supervisor: forks request handlers and sees to it that they run, and that they stop.

Every handler is one process. What they share is made before the fork by the caller: listening sockets and
configuration, but no thread, no event loop and no connection. The parent serves nothing itself.

Signals are data: the Python handlers only append to a list, the wake-up descriptor of the signal module makes the
loop look at it, and the loop acts. A signal that comes between the look and the wait has written to the descriptor
already, so no wake-up is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CUT_OFF = 3

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
PR_SET_PDEATHSIG = 1

HandlerMain = Callable[[int, Callable[[], None]], int | None]


@dataclass(frozen=True)
class Backoff:
    """How long a place that lost its handler stays empty.

    The first loss is replaced at once, then the pause doubles from `first_s` up to `most_s`. A handler that lived
    for `stable_s` clears the count. When no handler has ever become ready, `start_attempts` losses of one place
    end the daemon: what cannot start once is for a human to see.
    """

    first_s: float = 0.2
    most_s: float = 5.0
    stable_s: float = 10.0
    start_attempts: int = 5

    def pause_s(self, losses: int) -> float:
        """The pause after the given number of losses in a row, 1 being the first."""
        if losses <= 1:
            return 0.0
        return min(self.most_s, self.first_s * 2.0 ** min(losses - 2, 30))


@dataclass
class Slot:
    """One place for a handler: the process in it, if any, and when the next is due."""

    number: int
    pid: int | None = None
    born: float = 0.0
    losses: int = 0
    due: float = 0.0


class Supervisor:
    """Keeps `count` handlers running until TERM or INT.

    `handler_main(slot, ready)` runs in each child and calls `ready()` once it can answer; what it returns is the exit
    code of the child, 1 when it raises. The child starts with TERM at its default, INT and HUP ignored (the terminal
    sends INT to the whole group; the parent alone decides), and gets TERM should the parent die.

    `on_ready` is called once in the parent, when the first handler is ready. `watch` is called in the parent about
    once a second and whenever a child ends; it may start processes of its own: only handlers are ever reaped here.
    `in_child` is called first thing in each child, to let go of what belongs to the parent, privileges included.
    """

    def __init__(
        self,
        count: int,
        handler_main: HandlerMain,
        *,
        drain_timeout_s: float = 30.0,
        on_ready: Callable[[], None] | None = None,
        watch: Callable[[], None] | None = None,
        in_child: Callable[[], None] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f'a supervisor needs at least one handler, not {count}')
        self._handler_main = handler_main
        self._drain_timeout_s = drain_timeout_s
        self._on_ready = on_ready
        self._watch = watch
        self._in_child = in_child
        self._backoff = backoff or Backoff()
        self._slots = [Slot(number) for number in range(count)]
        self._signals: list[int] = []
        self._was_ready = False
        self._stopping = False
        self._deadline = 0.0
        self._exit_code = EXIT_OK
        self._wake_r = self._wake_w = self._ready_r = self._ready_w = -1

    def run(self) -> int:
        """Supervise until told to stop; no handler is left when this returns.

        Returns EXIT_OK when every handler finished what it was doing, EXIT_CUT_OFF when some were killed because
        the deadline passed or a second signal came, EXIT_FAILED when the handlers could not start.
        """
        with self._pipes(), self._signal_handlers():
            try:
                while not (self._stopping and not self._running()):
                    self._step()
            finally:
                self._kill_running()
        return self._exit_code

    def _step(self) -> None:
        self._start_due()
        self._wait()
        self._act_on_signals()
        self._reap()
        if self._stopping and self._running() and time.monotonic() >= self._deadline:
            log.warning('handlers still busy after %g s are killed', self._drain_timeout_s)
            self._cut_off()
        if self._watch is not None and not self._stopping:
            self._watch()

    # waiting

    def _wait(self) -> None:
        """Sleep until a signal, a ready handler or the next thing that is due; at most a second."""
        readable, _, _ = select.select([self._wake_r, self._ready_r], [], [], self._pause_s())
        if self._wake_r in readable:
            os.read(self._wake_r, 4096)
        if self._ready_r in readable:
            os.read(self._ready_r, 4096)
            self._note_ready()

    def _pause_s(self) -> float:
        moments = [self._deadline] if self._stopping else [slot.due for slot in self._slots if slot.pid is None]
        return max(0.0, min([1.0, *(moment - time.monotonic() for moment in moments)]))

    def _note_ready(self) -> None:
        if not self._was_ready:
            self._was_ready = True
            if self._on_ready is not None:
                self._on_ready()

    # signals

    def _act_on_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop(signal.Signals(number).name)
            elif number == signal.SIGHUP:
                log.info('SIGHUP is ignored: restart nipapd to apply a changed configuration')

    def _stop(self, why: str) -> None:
        if self._stopping:
            log.warning('%s again: stopping at once', why)
            self._cut_off()
            return
        log.info('%s: stopping, handlers have %g s to finish', why, self._drain_timeout_s)
        self._begin_stop()

    def _begin_stop(self) -> None:
        self._stopping = True
        self._deadline = time.monotonic() + self._drain_timeout_s
        for slot in self._running():
            self._send(slot, signal.SIGTERM)

    def _cut_off(self) -> None:
        if self._running():
            self._exit_code = self._exit_code or EXIT_CUT_OFF
        self._kill_running()

    # handlers

    def _running(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.pid is not None]

    def _start_due(self) -> None:
        for slot in self._slots:
            if not self._stopping and slot.pid is None and slot.due <= time.monotonic():
                self._start(slot)

    def _start(self, slot: Slot) -> None:
        slot.born = time.monotonic()
        parent = os.getpid()
        # Blocked until the child has its own dispositions: a TERM in between would end up in the parent's list.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_handler(slot, parent, unblocked)
            slot.pid = pid
        except OSError as error:
            log.error('handler %d cannot be forked: %s', slot.number, error.strerror)
            self._note_loss(slot)
            self._give_up_if_hopeless(slot)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)

    def _become_handler(self, slot: Slot, parent: int, unblocked: set[int]) -> NoReturn:
        code = 1
        try:
            reset_signals(unblocked)
            for descriptor in (self._wake_r, self._wake_w, self._ready_r):
                os.close(descriptor)
            if self._in_child is not None:
                self._in_child()
            die_with(parent)  # last: a change of account would undo it
            code = self._handler_main(slot.number, self._report_ready) or 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            log.exception('handler %d failed', slot.number)
        finally:
            # Not a return: what the parent's frames would clean up is the parent's.
            with contextlib.suppress(Exception):
                logging.shutdown()
            os._exit(code)

    def _report_ready(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._ready_w, b'.')

    def _reap(self) -> None:
        for slot in self._running():
            code = self._collect(slot, os.WNOHANG)
            if code is None:
                continue
            if self._stopping:
                self._note_end(slot, code)
            else:
                self._note_loss(slot)
                self._log_loss(slot, code)
                self._give_up_if_hopeless(slot)

    def _collect(self, slot: Slot, options: int) -> int | None:
        """The exit code of the slot's process once it has ended, and the slot is empty; else None."""
        if slot.pid is None:
            return None
        try:
            pid, status = os.waitpid(slot.pid, options)
        except ChildProcessError:
            pid, status = slot.pid, 0
        if pid == 0:
            return None
        log.debug('handler %d (pid %d) has ended', slot.number, pid)
        slot.pid = None
        return os.waitstatus_to_exitcode(status)

    def _note_end(self, slot: Slot, code: int) -> None:
        """A handler ended as it was told; a TERM that came before it could finish anything is no loss."""
        if code not in (0, -signal.SIGTERM):
            log.warning('handler %d %s before it was done', slot.number, how_it_ended(code))
            self._exit_code = self._exit_code or EXIT_CUT_OFF

    def _note_loss(self, slot: Slot) -> None:
        now = time.monotonic()
        if now - slot.born >= self._backoff.stable_s:
            slot.losses = 0
        slot.losses += 1
        slot.due = now + self._backoff.pause_s(slot.losses)

    def _log_loss(self, slot: Slot, code: int) -> None:
        pause_s = self._backoff.pause_s(slot.losses)
        log.warning('handler %d %s; the next starts in %g s', slot.number, how_it_ended(code), pause_s)

    def _give_up_if_hopeless(self, slot: Slot) -> None:
        if not self._was_ready and slot.losses >= self._backoff.start_attempts:
            log.error('no handler could start, giving up after %d attempts', slot.losses)
            self._exit_code = EXIT_FAILED
            self._begin_stop()

    def _send(self, slot: Slot, number: int) -> None:
        """Signal the slot's process. It has not been reaped, so the pid cannot be somebody else's."""
        if slot.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(slot.pid, number)

    def _kill_running(self) -> None:
        for slot in self._running():
            self._send(slot, signal.SIGKILL)
        for slot in self._running():
            self._collect(slot, 0)

    # what exists while the supervisor runs

    @contextlib.contextmanager
    def _pipes(self) -> Iterator[None]:
        self._wake_r, self._wake_w = os.pipe()
        self._ready_r, self._ready_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        os.set_blocking(self._ready_w, False)
        try:
            yield
        finally:
            for descriptor in (self._wake_r, self._wake_w, self._ready_r, self._ready_w):
                os.close(descriptor)

    @contextlib.contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._note_signal) for number in HANDLED}
        wakeup = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)


def reset_signals(unblocked: set[int]) -> None:
    """Give a fresh child its own dispositions, then let through what waited meanwhile."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


def die_with(parent: int) -> None:
    """Have the kernel send TERM to this process when `parent`, which forked it, dies. Linux only."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew
        os._exit(1)


def how_it_ended(code: int) -> str:
    """An exit code of os.waitstatus_to_exitcode in words; real-time signals have a number only."""
    if code >= 0:
        return f'exited with status {code}'
    try:
        return f'was killed by {signal.Signals(-code).name}'
    except ValueError:
        return f'was killed by signal {-code}'
