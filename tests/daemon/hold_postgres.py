"""Run a private PostgreSQL in a process of its own, for tests that kill it: `hold_postgres.py OPTIONS-AS-JSON`.

The program describes the server on standard output, as one JSON object. Then it obeys and answers the lines of its
standard input: `stop`, `fork-stop` (a child process calls stop). At end of file it ends without stopping anything.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from nipapd.embedded import EmbeddedPostgres


def main() -> None:
    options = json.loads(sys.argv[1])
    if 'uid' in options:  # after the imports, which that account may not be able to read
        os.setgroups([])
        os.setgid(options['gid'])
        os.setuid(options['uid'])
    server = EmbeddedPostgres(Path(options['home']), bindir=options['bindir'], settings={'fsync': 'off'})
    server.start()
    _say({'dsn': server.dsn(), 'postmaster': server.proc.pid if server.proc else None})
    for line in sys.stdin:
        if line.strip() == 'fork-stop':
            _stop_in_fork(server)
        else:
            server.stop()
        _say({})


def _stop_in_fork(server: EmbeddedPostgres) -> None:
    child = os.fork()
    if not child:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    main()
