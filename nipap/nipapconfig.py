"""The configuration interface of NIPAP's web client. Besides `nipap.authlib` only that client imports this module.

The web client runs in the same Python environment and imports ``NipapConfig`` and ``NipapConfigError`` from here.
"""

from __future__ import annotations

import configparser
from typing import ClassVar, Self


class NipapConfigError(Exception):
    """The configuration file cannot be read."""


class NipapConfig(configparser.ConfigParser):
    """A ``ConfigParser`` of which there is one object: every later call of the class returns the same.

    cfg_path: the configuration file. Only the first path given is read.
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
        """Read the file again that was named first, if any.

        :raises NipapConfigError: the file cannot be read.
        """
        if self._path is None:
            return
        try:
            with open(self._path, encoding='utf-8-sig') as file:
                self.read_file(file)
        except OSError as exc:
            raise NipapConfigError(str(exc)) from exc
