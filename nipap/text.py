"""The characters that a text may have: the characters of XML 1.0."""

from __future__ import annotations

import re

FORBIDDEN = '\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff'  # for a set of a regular expression
_forbidden = re.compile(f'[{FORBIDDEN}]').search


def forbidden_character(text: str) -> str | None:
    """Return the first character of a text that XML 1.0 cannot carry, or None."""
    found = _forbidden(text)
    return found.group() if found else None
