"""The supervisor: forks request handlers, keeps them running, and stops them.

Every handler is one process. The caller creates everything that handlers share before the fork: listening sockets and
configuration, but no thread, no event loop and no connection. The parent serves nothing itself.

Signals are data: the Python signal handlers only append to a list. The wake-up descriptor of the signal module wakes
the loop, which reads the list and acts. A signal that arrives between the reading and the wait has already written to
the descriptor, so no wake-up is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import math
import mmap
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CUT_OFF = 3

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
SHOW_STACK = signal.SIGUSR1
SHOW_STACK_S = 0.5  # the time for a hung handler to write its stack
LEAST_START_S = 10.0  # the least time for a handler to become ready, even with a shorter hang_timeout
INATTENTIVE_S = 5.0  # after a longer pause of its own, the supervisor cannot tell which handlers hang
LOSSES = ('exit', 'signal', 'hang', 'fork')  # ended by itself, killed by others, killed by us as hung, not forked
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
NAME = b'nipapd-handler'  # the name of a ready handler in ps; before, it has the name of the daemon
PID = struct.Struct('=i')


class Pulse:
    """The state of a handler in memory shared with the supervisor: ready, its last beat, and whether it has answered.

    A call reports that the handler is ready. Only the handler writes. Beats are times of the host's monotonic clock.
    """

    def __init__(self, report_ready: Callable[[], None]) -> None:
        self._report_ready = report_ready
        self._values = memoryview(mmap.mmap(-1, 16)).cast('d')

    def __call__(self) -> None:
        self.beat()
        self._report_ready()

    def beat(self) -> None:
        """Record that the handler is alive and serves requests."""
        self._values[0] = time.monotonic()

    def note_answer(self) -> None:
        self._values[1] = 1.0

    @property
    def last_beat(self) -> float:
        return self._values[0]

    @property
    def has_answered(self) -> bool:
        return bool(self._values[1])


HandlerMain = Callable[[int, Pulse], int | None]


@dataclass(frozen=True, eq=False)
class Generation:
    """A set of handlers that replaces another one as a whole: their number, their work and their limits.

    A handler hangs when its last beat is older than `hang_timeout_s`. To become ready it has at least LEAST_START_S.
    With a `hang_timeout_s` of 0 no handler counts as hung.
    """

    count: int
    handler_main: HandlerMain = field(repr=False)
    drain_timeout_s: float = 30.0
    hang_timeout_s: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f'a supervisor needs at least one handler, not {self.count}')

    def limit_s(self, ready: bool) -> float:
        """Return the longest time in seconds that a handler may go without a beat."""
        if ready or not self.hang_timeout_s:
            return self.hang_timeout_s or math.inf
        return max(self.hang_timeout_s, LEAST_START_S)


@dataclass(frozen=True)
class Backoff:
    """The pause before the next start in a slot that lost its handler.

    After the first loss the next handler starts at once. Then the pause doubles from `first_s` up to `most_s`. A
    handler that lived for `stable_s` clears the count. If no handler has ever become ready, `start_attempts` losses of
    one slot end the daemon, since an administrator has to see a failure to start. So do `hopeless_losses` in a row of
    every slot, if meanwhile no handler lived for `stable_s` and none answered anything.
    """

    first_s: float = 0.2
    most_s: float = 5.0
    stable_s: float = 10.0
    start_attempts: int = 5
    hopeless_losses: int = 12

    def pause_s(self, losses: int) -> float:
        """Return the pause in seconds after the given number of losses in a row; the first loss is 1."""
        if losses <= 1:
            return 0.0
        return min(self.most_s, self.first_s * 2.0 ** min(losses - 2, 30))


@dataclass(eq=False)
class Handler:
    """A handler process: its generation, whether it is ready, and the time at which it will be killed, if any."""

    slot: int
    pid: int
    generation: Generation
    pulse: Pulse
    born: float
    ready: bool = False
    deadline: float | None = None
    was_hung: bool = False


@dataclass
class Slot:
    """The place of a handler: its process, the successor of that process, and the time of the next start."""

    number: int
    current: Handler | None = None
    successor: Handler | None = None
    losses: int = 0
    fruitless: int = 0  # losses in a row while no handler of any slot was of use
    due: float = 0.0


class Supervisor:
    """Keeps `count` handlers running until TERM or INT.

    `handler_main(slot, pulse)` runs in each child. It calls `pulse()` once it can answer, and from then on
    `pulse.beat()` about once a second. Its result is the exit code of the child; the code is 1 when it raises. The
    child starts with TERM at its default, and with INT and HUP ignored: the terminal sends INT to the whole group, and
    the parent alone decides. At USR1 the child writes its Python stack to stderr. It gets TERM if the parent dies. A
    handler whose last beat is older than `hang_timeout_s` is killed and replaced, and so is one that does not become
    ready in time. Handlers that are finishing are exempt.

    At HUP `renew` returns the next generation; None keeps everything as it is. Each handler is then replaced by one of
    the new generation, which is ready before its predecessor is asked to finish. If no handler of the new generation
    can start, the former generation stays. `on_settled` is called with the generation that all handlers finally have.

    `on_ready` is called once in the parent, when the first handler is ready, and `on_stop` once, when the handlers
    are asked to finish. `on_loss` is called with one of LOSSES for each handler that has to be replaced. `watch` is
    called in the parent about once a second and whenever a child ends. It may start processes of its own, because the
    supervisor reaps only handlers. `in_child` is called first in each child, to give up everything that belongs to the
    parent, privileges included.
    """

    def __init__(
        self,
        count: int,
        handler_main: HandlerMain,
        *,
        drain_timeout_s: float = 30.0,
        hang_timeout_s: float = 0.0,
        renew: Callable[[], Generation | None] | None = None,
        on_settled: Callable[[Generation], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        on_stop: Callable[[], None] | None = None,
        watch: Callable[[], None] | None = None,
        in_child: Callable[[], None] | None = None,
        on_loss: Callable[[str], None] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._wanted = self._proven = Generation(count, handler_main, drain_timeout_s, hang_timeout_s)
        self._renew = renew
        self._on_settled = on_settled
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._watch = watch
        self._in_child = in_child
        self._on_loss = on_loss
        self._backoff = backoff or Backoff()
        self._slots = [Slot(number) for number in range(count)]
        self._leaving: list[Handler] = []
        self._signals: list[int] = []
        self._was_ready = False
        self._stopping = False
        self._settled = True
        self._exit_code = EXIT_OK
        self._looked = self._attentive_since = 0.0
        self._wake_r = self._wake_w = self._ready_r = self._ready_w = -1

    def run(self) -> int:
        """Supervise until a stop signal; no handler is left when this returns.

        Return EXIT_OK when every handler finished its requests, EXIT_CUT_OFF when some were killed because the
        deadline passed or a second signal came, EXIT_FAILED when the handlers could not start or live.
        """
        with self._pipes(), self._signal_handlers():
            try:
                while not (self._stopping and not self._running()):
                    self._step()
            finally:
                self._kill(self._running())
        return self._exit_code

    def _step(self) -> None:
        if not self._stopping:
            self._start_due()
            self._start_successor()
        self._wait()
        self._act_on_signals()
        self._reap()
        self._kill_late()
        if not self._stopping:
            self._look_for_hung()
            self._settle()
            if self._watch is not None:
                self._watch()

    # waiting

    def _wait(self) -> None:
        """Sleep until a signal, a ready handler or the next deadline or start; at most a second."""
        readable, _, _ = select.select([self._wake_r, self._ready_r], [], [], self._pause_s())
        if self._wake_r in readable:
            os.read(self._wake_r, 4096)
        if self._ready_r in readable:
            for (pid,) in PID.iter_unpack(os.read(self._ready_r, 1024 * PID.size)):
                self._note_ready(pid)

    def _pause_s(self) -> float:
        moments = [handler.deadline for handler in self._running() if handler.deadline is not None]
        if not self._stopping:
            moments += [slot.due for slot in self._slots if slot.current is None]
        return max(0.0, min([1.0, *(moment - time.monotonic() for moment in moments)]))

    def _note_ready(self, pid: int) -> None:
        for handler in self._running():
            if handler.pid == pid:
                handler.ready = True
                self._proven = handler.generation
        for slot in self._slots:
            if slot.successor is not None and slot.successor.ready:
                former, slot.current, slot.successor = slot.current, slot.successor, None
                self._dismiss(former)
        if not self._was_ready:
            self._was_ready = True
            if self._on_ready is not None:
                self._on_ready()

    # signals

    def _act_on_signals(self) -> None:
        hung_up = signal.SIGHUP in self._signals
        while self._signals:
            number = self._signals.pop(0)
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop(signal.Signals(number).name)
        if hung_up and not self._stopping:
            self._begin_renewal()

    def _stop(self, why: str) -> None:
        if self._stopping:
            log.warning('%s again: stopping at once', why)
            self._cut_off(self._running())
            return
        log.info('%s: stopping, handlers have %g s to finish', why, self._wanted.drain_timeout_s)
        self._begin_stop()

    def _begin_stop(self) -> None:
        self._stopping = True
        if self._on_stop is not None:
            self._on_stop()
        for slot in self._slots:
            self._retire(slot)

    def _cut_off(self, handlers: list[Handler]) -> None:
        if handlers and self._stopping:
            self._exit_code = self._exit_code or EXIT_CUT_OFF
        self._kill(handlers)

    # replacing a generation

    def _begin_renewal(self) -> None:
        if self._renew is None:
            log.info('SIGHUP is ignored: restart nipapd to apply a changed configuration')
            return
        generation = self._renew()
        if generation is not None:
            self._want(generation)

    def _want(self, generation: Generation) -> None:
        self._wanted = generation
        self._settled = False
        self._slots += [Slot(number) for number in range(len(self._slots), generation.count)]
        for slot in self._slots:
            slot.losses, slot.fruitless, slot.due = 0, 0, 0.0
            successor, slot.successor = slot.successor, None
            self._dismiss(successor)  # its generation is not wanted any more

    def _start_successor(self) -> None:
        """Start the successor of one handler of a former generation, unless another successor is still starting."""
        if any(slot.successor for slot in self._slots):
            return
        for slot in self._slots[: self._wanted.count]:
            if slot.current and slot.current.generation is not self._wanted and slot.due <= time.monotonic():
                slot.successor = self._fork(slot)
                return

    def _settle(self) -> None:
        """Report, once, that all handlers have the wanted generation, and ask surplus handlers to finish."""
        places = self._slots[: self._wanted.count]
        if self._settled or not all(self._is_settled(slot) for slot in places):
            return
        for slot in self._slots[self._wanted.count :]:
            self._retire(slot)
        del self._slots[self._wanted.count :]
        self._settled = True
        if self._on_settled is not None:
            self._on_settled(self._wanted)

    def _is_settled(self, slot: Slot) -> bool:
        return slot.current is not None and slot.current.ready and slot.current.generation is self._wanted

    def _retire(self, slot: Slot) -> None:
        for handler in (slot.current, slot.successor):
            self._dismiss(handler)
        slot.current = slot.successor = None

    def _dismiss(self, handler: Handler | None) -> None:
        """Ask a handler to finish; it belongs to no slot any more."""
        if handler is not None:
            handler.deadline = time.monotonic() + self._wanted.drain_timeout_s
            self._leaving.append(handler)
            self._send(handler, signal.SIGTERM)

    # handlers

    def _running(self) -> list[Handler]:
        placed = [handler for slot in self._slots for handler in (slot.current, slot.successor) if handler]
        return placed + self._leaving

    def _start_due(self) -> None:
        for slot in self._slots[: self._wanted.count]:
            if slot.current is None and slot.due <= time.monotonic():
                slot.current = self._fork(slot)

    def _fork(self, slot: Slot) -> Handler | None:
        pulse = Pulse(self._report_ready)
        try:
            pid = fork(f'handler {slot.number}', lambda parent: self._be_handler(slot, pulse, parent))
        except OSError as error:
            log.error('handler %d cannot be forked: %s', slot.number, error.strerror)
            self._tell_loss('fork')
            self._note_loss(slot, None)
            self._give_up_if_hopeless(slot, 'could not be forked')
            return None
        return Handler(slot.number, pid, self._wanted, pulse, time.monotonic())

    def _be_handler(self, slot: Slot, pulse: Pulse, parent: int) -> int | None:
        for descriptor in (self._wake_r, self._wake_w, self._ready_r):
            os.close(descriptor)
        if self._in_child is not None:
            self._in_child()
        die_with(parent)  # last: a change of account would undo it
        return self._wanted.handler_main(slot.number, pulse)

    def _report_ready(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._ready_w, PID.pack(os.getpid()))
        name_process(NAME)

    def _reap(self) -> None:
        for handler in self._running():
            code = self._collect(handler, os.WNOHANG)
            if code is None:
                continue
            if handler in self._leaving:
                self._leaving.remove(handler)
                self._note_end(handler, code)
            else:
                self._note_death(handler, code)

    def _note_death(self, handler: Handler, code: int) -> None:
        """Replace a handler that ended unasked."""
        slot = self._slots[handler.slot]
        if slot.successor is handler:
            slot.successor = None
        else:
            slot.current, slot.successor = slot.successor, None
        self._tell_loss('hang' if handler.was_hung else 'signal' if code < 0 else 'exit')
        self._note_loss(slot, handler)
        log.warning(
            'handler %d %s; the next starts in %g s',
            slot.number,
            how_it_ended(code),
            self._backoff.pause_s(slot.losses),
        )
        self._give_up_if_hopeless(slot, how_it_ended(code))

    def _collect(self, handler: Handler, options: int) -> int | None:
        """Return the exit code of the process once it has ended, else None."""
        try:
            pid, status = os.waitpid(handler.pid, options)
        except ChildProcessError:
            pid, status = handler.pid, 0
        if pid == 0:
            return None
        log.debug('handler %d (pid %d) has ended', handler.slot, pid)
        return os.waitstatus_to_exitcode(status)

    def _note_end(self, handler: Handler, code: int) -> None:
        """Log a dismissed handler that failed. Death by TERM is no failure: the handler had nothing to finish yet."""
        if code not in (0, -signal.SIGTERM):
            log.warning('handler %d %s before it was done', handler.slot, how_it_ended(code))
            if self._stopping:
                self._exit_code = self._exit_code or EXIT_CUT_OFF

    def _tell_loss(self, why: str) -> None:
        if self._on_loss is not None:
            self._on_loss(why)

    def _note_loss(self, slot: Slot, handler: Handler | None) -> None:
        now = time.monotonic()
        if handler is not None and now - handler.born >= self._backoff.stable_s:
            slot.losses = 0
        slot.losses += 1
        slot.fruitless += 1
        slot.due = now + self._backoff.pause_s(slot.losses)
        if any(self._is_of_use(one) for one in (handler, *self._running())):
            for each in self._slots:
                each.fruitless = 0

    def _is_of_use(self, handler: Handler | None) -> bool:
        if handler is None or not handler.ready:
            return False
        return handler.pulse.has_answered or time.monotonic() - handler.born >= self._backoff.stable_s

    def _give_up_if_hopeless(self, slot: Slot, ended: str) -> None:
        if not self._was_ready and slot.losses >= self._backoff.start_attempts:
            log.error('no handler could start, giving up after %d attempts; the last one %s', slot.losses, ended)
        elif all(each.fruitless >= self._backoff.hopeless_losses for each in self._slots):
            log.error('no handler lives long enough to answer, giving up; the last one %s', ended)
        else:
            if self._wanted is not self._proven and slot.losses >= self._backoff.start_attempts:
                log.error('no handler could start with the new configuration, the old one stays; one %s', ended)
                self._want(self._proven)
            return
        self._exit_code = EXIT_FAILED
        self._begin_stop()

    # hung and late handlers

    def _look_for_hung(self) -> None:
        """Make hung handlers write their stack, and set the time at which they are killed."""
        now = time.monotonic()
        if now - self._looked > INATTENTIVE_S:
            self._attentive_since = now  # this process was stopped, and perhaps its handlers as well
        self._looked = now
        for handler in [one for slot in self._slots for one in (slot.current, slot.successor) if one]:
            age_s = now - max(handler.pulse.last_beat if handler.ready else handler.born, self._attentive_since)
            if handler.deadline is None and age_s > handler.generation.limit_s(handler.ready):
                hangs = f'hangs, its last sign of life is {age_s:.1f} s old'
                stuck = f'has not become ready in {age_s:.1f} s'
                log.error(
                    'handler %d (pid %d) %s: it is killed', handler.slot, handler.pid, hangs if handler.ready else stuck
                )
                handler.deadline = now + SHOW_STACK_S
                handler.was_hung = True
                self._send(handler, SHOW_STACK)

    def _kill_late(self) -> None:
        now = time.monotonic()
        late = [one for one in self._running() if one.deadline is not None and now >= one.deadline]
        leaving = [one for one in late if one in self._leaving]
        for handler in late:
            if handler not in leaving:
                self._send(handler, signal.SIGKILL)
                handler.deadline = None if handler.deadline is None else now + 1.0  # until it is reaped
        if leaving:
            log.warning('handlers still busy after %g s are killed', self._wanted.drain_timeout_s)
            self._cut_off(leaving)

    def _send(self, handler: Handler, number: int) -> None:
        """Signal the process. It has not been reaped, so the pid cannot belong to another process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(handler.pid, number)

    def _kill(self, handlers: list[Handler]) -> None:
        for handler in handlers:
            self._send(handler, signal.SIGKILL)
        for handler in handlers:
            self._collect(handler, 0)
        self._leaving = [one for one in self._leaving if one not in handlers]

    # resources of a running supervisor

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


def fork(what: str, main: Callable[[int], int | None]) -> int:
    """Fork a child that runs `main`, and return the id of the child.

    `main` gets the id of its parent and returns the exit code. The child begins with TERM at its default, and with INT
    and HUP ignored. After `main` no code of the parent runs in the child.

    :raises OSError: the system cannot create a process.
    """
    parent = os.getpid()
    # Blocked until the child has its own signal handlers: an earlier TERM would end up in the parent's list.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(what, lambda: main(parent), unblocked)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


def _be_child(what: str, main: Callable[[], int | None], unblocked: set[int]) -> NoReturn:
    code = 1
    try:
        reset_signals(unblocked)
        code = main() or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        log.exception('%s failed', what)
    finally:
        # No return to the frames of the parent: they would clean up resources of the parent.
        with contextlib.suppress(Exception):
            logging.shutdown()
        os._exit(code)


def reset_signals(unblocked: set[int]) -> None:
    """Set the signal handlers of a fresh child, then unblock signals, so that pending ones arrive."""
    signal.set_wakeup_fd(-1)
    faulthandler.register(SHOW_STACK)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


def name_process(name: bytes) -> None:
    """Set the name of this process, as ps shows it. Linux only."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)


def die_with(parent: int) -> None:
    """Make the kernel send TERM to this process when `parent`, which forked it, dies. Linux only."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the request
        os._exit(1)


def how_it_ended(code: int) -> str:
    """Return an exit code of os.waitstatus_to_exitcode in words; real-time signals have a number only."""
    if code >= 0:
        return f'exited with status {code}'
    try:
        return f'was killed by {signal.Signals(-code).name}'
    except ValueError:
        return f'was killed by signal {-code}'
