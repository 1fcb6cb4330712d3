"""Processes of a test, each forked from a server that has neither connections nor threads.

The server has imported the modules that the processes need, so that a process starts in milliseconds.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

IMPORTED = [
    *('pytest', 'nipap.backend', 'nipap.postgres.schema'),
    *('concurrency.test_allocation', 'concurrency.test_idempotency', 'concurrency.test_tree'),
]


@functools.cache
def context() -> ForkServerContext:
    """Return the context of multiprocessing, whose server runs.

    There is one server, and one list of imports, for all tests of this process. Some tools set the list when they are
    imported, so set it as late as possible.
    """
    made = multiprocessing.get_context('forkserver')
    made.set_forkserver_preload(IMPORTED)
    path = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join([str(Path(__file__).parent), *([path] if path else [])])
    try:
        forkserver.ensure_running()
    finally:
        if path is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = path
    return made
