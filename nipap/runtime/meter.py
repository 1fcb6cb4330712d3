"""What is counted while calls are served, for whoever wants to know.

Whoever measures gives an object like `Meter` to what it builds; nobody here knows where the figures go.
"""

from __future__ import annotations


class Meter:
    """Counts nothing. A daemon that is watched gives a better one."""

    def call(self, method: str, code: int, seconds: float) -> None:
        """A call was answered after so long, with a fault of that code; 0 is none. Any text may be a method."""

    def retry(self) -> None:
        """Work is about to be run in the database again, for the database's reasons."""

    def session(self) -> None:
        """A session with the database has been opened."""


SILENT = Meter()
