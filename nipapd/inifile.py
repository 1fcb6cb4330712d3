"""INI files: the text of every section and key, and warnings about unknown ones."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from nipapd.commandline import suggestion

SECRET_KEYS = frozenset({'db_pass', 'signing_key', 'metrics_token', 'sasl_password', 'search_password', 'xmlrpc_uri'})
DEFAULTS = 'DEFAULT'  # the section whose keys apply to every section of the file
REFERENCE = re.compile(r'%(?:(%)|\(([^()]+)\)s)')
DEEPEST = 10  # levels of references to references


class ConfigError(Exception):
    """A configuration that cannot be used. The message is one line: the place, the problem and the accepted values."""


class File:
    """The text of every section and key, with a record of the keys that were read, and warnings about the file."""

    def __init__(self, path: Path | None, parser: configparser.RawConfigParser | None) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._sections = {name: dict(parser[name]) for name in parser.sections()} if parser else {}
        self._defaults = self._sections.pop(DEFAULTS, {})
        self._asked: set[tuple[str, str]] = set()

    def sections(self) -> list[str]:
        return list(self._sections)

    def has(self, section: str, key: str) -> bool:
        return self._raw(section, key) is not None

    def _raw(self, section: str, key: str) -> str | None:
        """Return the text as written; the section DEFAULT applies to every section of the file."""
        own = self._sections.get(section)
        return None if own is None else own.get(key, self._defaults.get(key))

    def text(self, section: str, key: str) -> str:
        """Return the value without blanks around it; empty when the key is missing."""
        self._asked.add((section, key))
        value = self._expanded(section, self._raw(section, key) or '', 0).strip()
        if '\0' in value:
            raise self.error(section, key, 'has a NUL character')
        return value

    def _expanded(self, section: str, text: str, depth: int) -> str:
        """Replace ``%%`` by a percent sign and ``%(key)s`` by another value of the section; keep all other text."""

        def replace(found: re.Match[str]) -> str:
            name = (found[2] or '').lower()
            other = self._raw(section, name)
            if other is None or depth == DEEPEST:
                return '%' if found[1] else found[0]
            self._asked.add((section, name))
            return self._expanded(section, other, depth + 1)

        return REFERENCE.sub(replace, text) if '%' in text else text

    def know(self, section: str) -> None:
        """Mark every key of the section as known."""
        self._asked.update((section, key) for key in (*self._sections.get(section, {}), ''))

    def error(self, section: str, key: str, problem: str) -> ConfigError:
        """Return an exception that names file, section, key and value, but not the value of a secret."""
        value = (self._raw(section, key) or '').strip()
        shown = f' = {on_one_line(value)}' if value and key not in SECRET_KEYS else ''
        return ConfigError(f'{self.path}: [{on_one_line(section)}] {key}{shown}: {problem}')

    def warn(self, section: str, key: str, problem: str) -> None:
        self.warnings.append(f'{self.path}: [{on_one_line(section)}] {key}: {problem}')

    def warn_of_the_rest(self) -> None:
        """Warn of every section and key that was not read, and propose a known one that was probably meant."""
        sections = {section for section, _ in self._asked}
        for section, given in self._sections.items():
            if section not in sections:
                probably = suggestion(section, sections)
                self.warnings.append(f'{self.path}: [{on_one_line(section)}]: unknown section, ignored{probably}')
                continue
            for key in given:
                if (section, key) not in self._asked:
                    self._warn_unknown(section, key, {known for its, known in self._asked if its == section})
        for key in self._defaults.keys() - {known for _, known in self._asked}:
            self._warn_unknown(DEFAULTS, key, {known for _, known in self._asked})

    def _warn_unknown(self, section: str, key: str, known: set[str]) -> None:
        self.warn(section, on_one_line(key), f'unknown key, ignored{suggestion(key, known)}')

    def warn_of_readers(self) -> None:
        """Warn when everybody on this host can read a secret in the file."""
        found = {key for given in (*self._sections.values(), self._defaults) for key, text in given.items() if text}
        if self.path and (secret := sorted(found & SECRET_KEYS)) and everybody_can_read(self.path):
            self.warnings.append(f'{self.path}: everybody can read it, and it holds {", ".join(secret)}: chmod o-r')


def everybody_can_read(path: Path) -> bool:
    """Return whether any account of the host can open a file."""
    try:
        status = path.stat()
        return bool(status.st_mode & 0o004) and all(parent.stat().st_mode & 0o001 for parent in path.parents)
    except OSError:
        return False


def on_one_line(text: str) -> str:
    """Return the text; quoted and escaped if it has line breaks or control characters."""
    return text if text.isprintable() else repr(text)


def read_file(path: Path) -> File:
    """Read a file.

    :raises ConfigError: the file cannot be read, or is no INI file.
    """
    # Blank and '#' or ';' begin a comment after a value as well. File interprets '%' and [DEFAULT].
    parser = configparser.RawConfigParser(inline_comment_prefixes=('#', ';'), default_section='')
    try:
        parser.read_string(path.read_text('utf-8-sig'), str(path))
    except OSError as exc:
        raise ConfigError(f'{path}: {exc.strerror}') from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f'{path}: is not a text in UTF-8 (byte {exc.start})') from exc
    except ValueError as exc:
        raise ConfigError(f'{str(path)!r}: is no file name') from exc
    except configparser.Error as exc:
        raise ConfigError(f'{path}: {_syntax_problem(exc)}') from exc
    return File(path, parser)


def _syntax_problem(exc: configparser.Error) -> str:
    """Return the problem on one line, without the text of the line concerned, which may hold a password."""
    if isinstance(exc, configparser.DuplicateOptionError):
        return f'line {exc.lineno}: [{on_one_line(exc.section)}] {on_one_line(exc.option)} is there twice'
    if isinstance(exc, configparser.DuplicateSectionError):
        return f'line {exc.lineno}: section [{on_one_line(exc.section)}] is there twice'
    if isinstance(exc, configparser.MissingSectionHeaderError):
        return f'line {exc.lineno}: not in a section such as [nipapd]'
    lines = [number for number, _ in getattr(exc, 'errors', [])]
    return f'line {lines[0]}: neither [section] nor key = value' if lines else 'is not in INI format'
