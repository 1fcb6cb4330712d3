"""Commands of nipapd as processes that start with all modules imported, which costs half a second of CPU.

`Forking` runs this file. The file reads jobs from its standard input, forks a process for each job, and answers with
process ids and exit codes, a line each.
"""

from __future__ import annotations

import importlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parent.parent


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

    def runs(self) -> bool:
        """Return whether the command is still running."""
        if self._code is not None:
            return False
        state = Path(f'/proc/{self.pid}/stat').read_text().rpartition(')')[2].split()[0]
        return state != 'Z'

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

    def start(self, program: str, *args: object, account: str | None = None) -> Forked:
        """Start `nipap-admin` or `nipapd` with these arguments, as another account if root asks for that."""
        self._number += 1
        output = self._directory / f'output-{self._number}'
        output.touch()
        job = {'program': program, 'args': [*map(str, args)], 'output': str(output), 'account': account}
        self._started.append(Forked(self, self.ask(**job), output))
        return self._started[-1]

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

    from nipapd import __main__, maintenance

    programs = {'nipap-admin': maintenance.main, 'nipapd': __main__.main}
    for line in sys.stdin:
        job = json.loads(line)
        if 'wait' in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job['wait'], 0)[1]), flush=True)
        elif (pid := os.fork()) == 0:
            run(programs, job)
        else:
            # Set the group here too: once the process id is known, the group may be killed.
            os.setpgid(pid, pid)
            print(pid, flush=True)


def run(programs: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Run the job in this process and exit with its code."""
    code = 1
    try:
        os.setpgid(0, 0)
        output = os.open(job['output'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, output), (2, output)):
            os.dup2(source, target)
        if job['account'] is not None:
            become(job['account'])
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
