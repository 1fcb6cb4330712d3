"""The interface for metrics of calls and database sessions.

A program that measures passes an object like `Meter` to the objects that it builds. These do not know where the figures
go.
"""

from __future__ import annotations


class Meter:
    """A meter that counts nothing. A daemon with metrics passes a subclass."""

    def call(self, method: str, code: int, seconds: float) -> None:
        """Count a call: its duration and the code of its fault, 0 for none. Any text may be a method."""

    def retry(self) -> None:
        """Count a retry of work in the database, made necessary by the database."""

    def session(self) -> None:
        """Count a new session with the database."""


SILENT = Meter()
