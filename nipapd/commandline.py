"""Command lines: the error about an unknown option proposes the option that was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

UNKNOWN = 'unrecognized arguments: '
LIKE = 0.75  # port for prot, but not db_host for db_charset


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that proposes a known option in place of an unknown one."""

    def error(self, message: str) -> NoReturn:
        """End the process with a message, as argparse does."""
        if message.startswith(UNKNOWN):
            words = re.findall(r'(?<!\S)-[^\s=]*', message.removeprefix(UNKNOWN))
            message += ''.join(suggestion(word, self._option_string_actions) for word in words)
        super().error(message)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a question to append to the message about an unknown word; empty when no known word is similar."""
    close = difflib.get_close_matches(word, list(known), 1, LIKE)
    return f', did you mean {close[0]}?' if close else ''
