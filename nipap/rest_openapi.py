"""The description of the REST interface."""

from __future__ import annotations

from flask import Flask


def add_to(app: Flask, root: str) -> None:
    """Have an application serve the description."""
