"""A pytest plugin that shares the tests out between the processes of pytest-xdist.

A file of tests goes to one process, so that the database or daemon of a module is made once. Long files begin first:
at the end all processes still have work. The order of the tests in a file, and of files of equal rank, stays random.
Without pytest-xdist the order of all tests is random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import Scheduling

# The files that take longest, and then directories, from those with the longest files to those with the shortest.
RANKS = (
    'daemon/test_long_answers.py',
    'daemon/test_slow_calls.py',
    'contract/test_extreme_arguments_contract.py',
    'contract/test_injection_contract.py',
    'daemon/',
    'concurrency/',
    'properties/',
    'db/',
    'contract/',
)


def rank_of(path: str) -> int:
    """Return the rank of a file of tests; a low rank begins first. path: relative to the directory of tests."""
    return next((rank for rank, begin in enumerate(RANKS) if path.startswith(begin)), len(RANKS))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, 'workerinput'):
        items.sort(key=lambda item: rank_of(item.nodeid.partition('tests/')[2]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Return a scheduler of whole files, unless the command has `--dist` or names files: these are shared by tests."""
    if config.option.dist != 'load' or all('.py' in argument for argument in config.args):
        return None
    config.option.loadscopereorder = False  # xdist would sort files by their number of tests
    return _lanes()(config, log)


def _lanes() -> type[Scheduling]:
    from xdist.scheduler import LoadFileScheduling

    class Lanes(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        """Files of daemons go to every second process, and other files to the others, while there are both.

        Tests of daemons mostly wait, other tests mostly compute: together they use the cores best.
        """

        def _assign_work_unit(self, node: Any) -> None:
            waits = int(node.gateway.id.removeprefix('gw')) % 2 == 0
            for scope in self.workqueue:
                if ('daemon/' in scope) == waits:
                    self.workqueue.move_to_end(scope, last=False)
                    break
            super()._assign_work_unit(node)

    return Lanes
