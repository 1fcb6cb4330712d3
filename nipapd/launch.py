"""Reports about the start of the daemon: to the terminal, or from the background to the process that waits for it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

log = logging.getLogger('nipapd')

LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW


class StartError(Exception):
    """The daemon cannot start; the text gives the reason, on one line if possible."""


def say(text: str) -> None:
    """Write a line to stderr in one system call: other processes may write to the same terminal or file."""
    sys.stderr.write(f'nipapd: {text}\n')  # print writes the end of the line by itself if stderr has no buffer
    sys.stderr.flush()


class Launch:
    """A daemon in the foreground."""

    def __init__(self) -> None:
        self._private: list[int] = []

    def keep_private(self, descriptor: int) -> None:
        """Close this descriptor in every child."""
        self._private.append(descriptor)

    def detach(self, log_file: Path | None, owner: tuple[int, int] | None = None) -> None:
        """Detach from the terminal before the handlers are forked; stderr then goes to `log_file`, if given.

        owner: the user and group that the file is to belong to, if not this process's.
        """

    def reopen_log(self) -> bool:
        """Reopen the log file by its name, because it may have been renamed. Return False if that is not possible."""
        return False

    def ready(self, lines: Sequence[str]) -> None:
        """Report that the daemon serves. All lines are one system call, so a reader of the first line has them all."""
        say('\nnipapd: '.join(lines))

    def in_child(self) -> None:
        """Close the parent's private descriptors, in a child that was just forked."""
        for descriptor in self._private:
            os.close(descriptor)


class BackgroundLaunch(Launch):
    """A daemon whose caller waits at the other end of a pipe.

    Through the pipe go the exit code for the caller, one byte, and then the text that the caller shows.
    """

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self._pipe = pipe
        self._log_file: Path | None = None
        redirect('/dev/null', os.O_RDWR, (0, 1))

    def detach(self, log_file: Path | None, owner: tuple[int, int] | None = None) -> None:
        self._log_file = log_file
        sys.stderr.flush()
        if log_file is None:
            redirect('/dev/null', os.O_RDWR, (2,))
        else:
            redirect(str(log_file), LOG_FLAGS, (2,))
            if owner:
                os.fchown(2, *owner)

    def reopen_log(self) -> bool:
        if self._log_file is None:
            return False
        try:
            redirect(str(self._log_file), LOG_FLAGS, (2,))
        except OSError as error:
            log.error('%s cannot be opened again, lines go to the former file: %s', self._log_file, error.strerror)
            return False
        return True

    def ready(self, lines: Sequence[str]) -> None:
        for line in lines:
            log.info('%s', line)
        self._answer(0, lines)

    def end(self, code: int) -> None:
        """Report the exit code to a caller that still waits, since the daemon never served.

        Earlier messages are on the terminal already.
        """
        seen = [f'it could not start, see {self._log_file}'] if self._log_file else []
        self._answer(code, seen)

    def in_child(self) -> None:
        super().in_child()
        self._close()

    def _answer(self, code: int, lines: Sequence[str]) -> None:
        if self._pipe >= 0:
            text = ''.join(f'nipapd: {line}\n' for line in lines)
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, bytes([code]) + text.encode())
            self._close()

    def _close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def in_background(daemon: Callable[[Launch], int]) -> int:
    """Run `daemon` as a process of its own, in a session without terminal.

    Return in the caller when the daemon serves or has failed. The result is the caller's exit code.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _become_daemon(daemon, sending)
    os.close(sending)
    os.waitpid(child, 0)
    with open(receiving, 'rb') as pipe:
        answer = pipe.read()
    sys.stderr.write(answer[1:].decode())
    return answer[0] if answer else 1


def _become_daemon(daemon: Callable[[Launch], int], pipe: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)  # the daemon is no session leader, so it never gets a terminal again
        os.chdir('/')
        launch = BackgroundLaunch(pipe)
        code = daemon(launch)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            launch.end(code)
            logging.shutdown()
        os._exit(code)


def redirect(path: str, flags: int, descriptors: Sequence[int]) -> None:
    """Make the descriptors refer to the file at `path`."""
    opened = os.open(path, flags, 0o640)
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
    if opened not in descriptors:
        os.close(opened)
