"""Every error a client can see: a short tree in which each class has a number for ever.

Transports translate these once, at their boundary. The message says what was wrong, the value,
and what would be accepted; it never carries SQL, class names or other internals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

T = TypeVar('T')


class NipapError(Exception):
    """Anything that goes wrong and is the client's to know."""

    code = 1000
    position: int | None = None  # of many things asked for at once, which one this is about
    attribute: str | None = None  # the one whose value was refused, where that is known
    interpretation: object = None  # of the text of a search that was not understood
    others: tuple[NipapError, ...] = ()  # further errors of the same arguments

    def about(self, attribute: object) -> Self:
        """The same error, naming the attribute."""
        self.attribute = str(attribute)
        return self


class NipapUnavailableError(NipapError):
    """The database is away, or full; nothing was changed, and the call can be made again."""

    code = 1010

    def __init__(self, text: str, why: str = '') -> None:
        super().__init__(text)
        self.why = why  # for the operator, not for clients


class AuthUnavailableError(NipapUnavailableError):
    """Accounts cannot be read; nothing was changed, and the call can be made again."""

    code = 1010


class NipapOutcomeUnknownError(NipapError):
    """The database went away while a change was being committed: perhaps it was."""

    code = 1020


class NipapInputError(NipapError):
    """The arguments have the wrong shape."""

    code = 1100


class NipapMissingInputError(NipapInputError):
    """Something mandatory is not there."""

    code = 1110


class NipapExtraneousInputError(NipapInputError):
    """Something is there that is not accepted."""

    code = 1120


class NipapNoSuchOperatorError(NipapInputError):
    """A query names an operator that does not exist."""

    code = 1130


class NipapTooLargeError(NipapInputError):
    """A request that is larger than what is accepted."""

    code = 1100


class NipapMediaTypeError(NipapInputError):
    """A request that is in no format that is read."""

    code = 1100


class NipapValueError(NipapError):
    """A value that is not acceptable, or a change that would break a rule of the tree."""

    code = 1200


class NipapPatternError(NipapValueError):
    """A regular expression that PostgreSQL does not understand."""

    code = 1200


class NipapTimeoutError(NipapValueError):
    """A search that would take too long and was stopped."""

    code = 1210


class NipapNonExistentError(NipapError):
    """The object that was referred to does not exist."""

    code = 1300


class NipapDuplicateError(NipapError):
    """An object with the same unique values exists already."""

    code = 1400


class NipapKeyReusedError(NipapDuplicateError):
    """An idempotency key that was used for another call."""

    code = 1410


class NipapChangedError(NipapError):
    """The object is not, or no longer, as the caller expects it to be; nothing was changed."""

    code = 1600


class AuthError(NipapError):
    """Something about authentication or authorization."""

    code = 1500


class AuthenticationMissingError(AuthError):
    """No credentials were sent."""

    code = 1500


class AuthenticationFailedError(AuthError):
    """The credentials are not valid."""

    code = 1510


class TooManyLoginsError(AuthenticationFailedError):
    """Too many credentials were not valid; others are looked at after a while."""

    code = 1510

    def __init__(self, text: str, retry_after_s: int = 1) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class AuthorizationFailedError(AuthError):
    """The user is known but may not do this."""

    code = 1520


def at_operation(position: int, method: str, error: NipapError) -> NipapError:
    """Return an error of a batch that names the operation in which an error was raised."""
    named = type(error)(f'operation {position} ({method}): {error}')
    named.position, named.attribute = position, error.attribute
    return named


class Problems:
    """Collect every error of a call's arguments: a client sees the first, which carries the others."""

    def __init__(self) -> None:
        self.found: list[NipapError] = []

    def read(self, read: Callable[..., T], *args: Any, default: Any = None) -> T:
        """Return what `read` makes of the arguments; note its error and return `default` when it raises one."""
        try:
            return read(*args)
        except NipapError as error:
            self.note(error)
            return default  # type: ignore[no-any-return]  # never used: `check` raises before

    def note(self, error: NipapError) -> None:
        """Note an error, and those that are attached to it."""
        self.found += [error, *error.others]

    def check(self) -> None:
        """Raise the first error that was noted, with the others attached."""
        if self.found:
            first, *others = self.found
            first.others = tuple(others)
            raise first
