"""The configuration as NIPAP's web client reads it. For that client alone: nothing of ours imports this module.

It shares an environment with us and imports ``NipapConfig`` and ``NipapConfigError`` from here.
"""

from __future__ import annotations

import configparser
from typing import ClassVar, Self


class NipapConfigError(Exception):
    """There is no file that can be read."""


class NipapConfig(configparser.ConfigParser):
    """A ``ConfigParser`` that is made once: whoever asks for another one later gets the same.

    cfg_path: the file, read when it is named for the first time.
    """

    _made: ClassVar[NipapConfig | None] = None
    _path: str | None

    def __new__(cls, cfg_path: str | None = None) -> Self:  # noqa: ARG004  (__init__ takes it)
        if cls._made is None:
            made = super().__new__(cls)
            configparser.ConfigParser.__init__(made, inline_comment_prefixes=(';', '#'))
            made._path = None
            cls._made = made
        return cls._made  # type: ignore[return-value]  # of this class

    def __init__(self, cfg_path: str | None = None) -> None:
        if cfg_path is not None and self._path is None:
            self._path = cfg_path
            self.read_config_file()

    def read_config_file(self) -> None:
        """Read the file that was named first.

        :raises NipapConfigError: it cannot be read.
        """
        if self._path is None:
            return
        try:
            with open(self._path, encoding='utf-8-sig') as file:
                self.read_file(file)
        except OSError as exc:
            raise NipapConfigError(str(exc)) from exc
