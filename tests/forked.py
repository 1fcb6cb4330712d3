"""Commands of nipapd as processes that start with all modules imported, which saves half a second of CPU each.

`Forking` runs this file. The file reads jobs from its standard input, forks a process for each job, and answers with
process ids and exit codes, a line each.
"""

from __future__ import annotations

import importlib
import json
import os
import pwd
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAMS = {'nipap-admin': 'nipapd.maintenance', 'nipapd': 'nipapd.__main__', 'nipap-passwd': 'nipapd.passwd'}
# Daemons of tests hash passwords with little work: 1 ms for each, where the product takes 100 ms. Commands that are
# started by name keep the product's work.
CHEAP_LOG2_N = 8
LIMITS = [number for name, number in sorted(vars(resource).items()) if name.startswith('RLIMIT_')]


class Forked:
    """One command with its output in a file; it leads a process group of its own."""

    def __init__(self, server: Forking, pid: int, output: Path) -> None:
        self.pid = pid
        self._server = server
        self._output = output
        self._code: int | None = None

    def kill(self) -> int:
        """Kill the command and all its descendants except PostgreSQL; return the exit code as `wait` does."""
        # The process is a zombie until it is waited for, so the number cannot be reused.
        os.killpg(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Wait for the command to end; return the exit code, negative for a signal."""
        if self._code is None:
            self._code = self._server.ask(wait=self.pid)
        return self._code

    def poll(self) -> int | None:
        """Return the exit code, or None while the command is running."""
        return None if self.runs() else self.wait()

    def send_signal(self, number: int) -> None:
        """Signal the command alone, unless it has ended."""
        if self._code is None:
            os.kill(self.pid, number)

    def runs(self) -> bool:
        """Return whether the command is still running."""
        if self._code is not None:
            return False
        return Path(f'/proc/{self.pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'

    def said(self) -> str:
        """Return the output so far."""
        return self._output.read_text(errors='replace')


class Forking:
    """Starts commands; Python searches `paths` first, for a program that is not installed."""

    def __init__(self, directory: Path, *paths: Path) -> None:
        self._directory = directory
        self._number = 0
        self._started: list[Forked] = []
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths or (REPOSITORY,)))}
        command = [sys.executable, str(Path(__file__).resolve())]
        pipe = subprocess.PIPE
        self._proc = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, text=True, cwd='/')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the commands that are left and the process that forks."""
        for left in self._started:  # left by a failed test
            if left.runs():
                left.kill()
        self._proc.communicate(timeout=60)

    def ask(self, **job: Any) -> int:
        assert self._proc.stdin is not None
        assert self._proc.stdout is not None
        self._proc.stdin.write(json.dumps(job) + '\n')
        self._proc.stdin.flush()
        return int(self._proc.stdout.readline())

    def start(self, program: str, *args: object, account: str | None = None, killed_at: str | None = None) -> Forked:
        """Start a program of `PROGRAMS` with these arguments, as another account if root asks for that.

        killed_at: the function at whose call the process kills itself, by its full name.
        """
        self._number += 1
        output = self._directory / f'output-{self._number}'
        output.touch()
        job = {'program': program, 'args': [*map(str, args)], 'output': str(output), 'account': account}
        job |= {'killed_at': killed_at} if killed_at else {}
        self._started.append(Forked(self, self.ask(**job), output))
        return self._started[-1]

    def start_as_is(self, program: str, args: Sequence[str], env: Mapping[str, str], output: Path) -> Forked:
        """Start a program as a child of the caller would be: its environment, limits and umask, in a new session."""
        os.umask(mask := os.umask(0))
        limits = {number: resource.getrlimit(number) for number in LIMITS}
        job = {'program': program, 'args': [*args], 'output': str(output), 'account': None}
        return Forked(self, self.ask(**job, env={**env}, limits=[*limits.items()], umask=mask), output)

    def run(self, program: str, *args: object, account: str | None = None) -> str:
        """Run a command to its end; return its output."""
        process = self.start(program, *args, account=account)
        code, said = process.wait(), process.said()
        assert code == 0, f'{program} {args} ended with {code}: {said}'
        return said

    def timed(self, program: str, *args: object) -> tuple[str, float]:
        """Run a command to its end; return its output and its duration in seconds."""
        began = time.monotonic()
        return self.run(program, *args), time.monotonic() - began


def become(account: str) -> None:
    found = pwd.getpwnam(account)
    os.environ['HOME'] = '/nonexistent'
    os.setgroups([])
    os.setgid(found.pw_gid)
    os.setuid(found.pw_uid)


def main() -> None:
    # Another account may not be allowed to read the interpreter: import the modules that are needed later first.
    for name in ('encodings.idna', 'encodings.utf_8_sig', 'importlib.readers'):
        importlib.import_module(name)

    programs = {name: importlib.import_module(module).main for name, module in PROGRAMS.items()}
    for line in sys.stdin:
        job = json.loads(line)
        if 'wait' in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job['wait'], 0)[1]), flush=True)
            continue
        receiving, sending = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(receiving)
            run(programs, job, sending)
        os.close(sending)
        os.read(receiving, 1)  # until the process leads its group: from then on the group may be killed
        os.close(receiving)
        print(pid, flush=True)


def take_over(env: Mapping[str, str], limits: Sequence[Any], umask: int) -> None:
    """Give this process an environment, limits and a umask."""
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    for number, pair in limits:
        resource.setrlimit(number, tuple(pair))
    os.umask(umask)


def run(programs: Mapping[str, Any], job: Mapping[str, Any], started: int) -> None:
    """Run the job in this process and exit with its code. started: a pipe, closed once the process leads its group."""
    code = 1
    try:
        os.setsid()
        os.close(started)
        if 'env' in job:
            take_over(job['env'], job['limits'], job['umask'])
            vars(importlib.import_module('nipap.access.local_users'))['_LOG2_N'] = CHEAP_LOG2_N
            module = sys.modules[programs[job['program']].__module__]
            sys.argv = [str(module.__file__), *job['args']]
        output = os.open(job['output'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, output), (2, output)):
            os.dup2(source, target)
        if job['account'] is not None:
            become(job['account'])
        if 'killed_at' in job:
            where, _, function = job['killed_at'].rpartition('.')
            setattr(importlib.import_module(where), function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        code = programs[job['program']](job['args'])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == '__main__':
    main()
