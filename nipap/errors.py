"""The errors that a client can see: a short tree in which each class has a permanent number.

Transports translate the errors once, at their boundary. A message names the fault, the value and the accepted values;
it never carries SQL, class names or other internals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

T = TypeVar('T')


class NipapError(Exception):
    """The base of errors that are reported to the client."""

    code = 1000
    position: int | None = None  # the index of the failed operation or object, of several in one call
    attribute: str | None = None  # the attribute with the refused value, if known
    interpretation: object = None  # of a search text that was not understood
    others: tuple[NipapError, ...] = ()  # further errors of the same arguments

    def about(self, attribute: object) -> Self:
        """Name the attribute in this error and return the error."""
        self.attribute = str(attribute)
        return self


class NipapUnavailableError(NipapError):
    """The database is unavailable or full. Nothing was changed, and the call can be retried."""

    code = 1010

    def __init__(self, text: str, why: str = '') -> None:
        super().__init__(text)
        self.why = why  # for the operator, not for clients


class AuthUnavailableError(NipapUnavailableError):
    """The accounts cannot be read. Nothing was changed, and the call can be retried."""

    code = 1010


class NipapOutcomeUnknownError(NipapError):
    """The database was lost during a commit, so the change may or may not be stored."""

    code = 1020


class NipapBusyError(NipapError):
    """A dry run did not get a lock in time, because another change holds it. The call can be retried."""

    code = 1030


class NipapInputError(NipapError):
    """The arguments have the wrong shape."""

    code = 1100


class NipapMissingInputError(NipapInputError):
    """A mandatory argument or attribute is missing."""

    code = 1110


class NipapExtraneousInputError(NipapInputError):
    """An argument or attribute is not accepted."""

    code = 1120


class NipapNoSuchOperatorError(NipapInputError):
    """A query names an operator that does not exist."""

    code = 1130


class NipapTooLargeError(NipapInputError):
    """A request that is larger than accepted."""

    code = 1100


class NipapMediaTypeError(NipapInputError):
    """A request in an unsupported format."""

    code = 1100


class NipapValueError(NipapError):
    """A value that is not acceptable, or a change that would break a rule of the tree."""

    code = 1200


class NipapPatternError(NipapValueError):
    """A regular expression that PostgreSQL does not understand."""

    code = 1200


class NipapTimeoutError(NipapValueError):
    """A search that was stopped because it would take too long."""

    code = 1210


class NipapPlanError(NipapValueError):
    """The token of a plan is not valid for this call."""

    code = 1220


class NipapNonExistentError(NipapError):
    """The named object does not exist."""

    code = 1300


class NipapNoPastError(NipapError):
    """The state of a moment that lies before the beginning of the history."""

    code = 1310


class NipapDuplicateError(NipapError):
    """An object with the same unique values exists already."""

    code = 1400


class NipapKeyReusedError(NipapDuplicateError):
    """An idempotency key that was used for another call."""

    code = 1410


class NipapChangedError(NipapError):
    """The object is not, or no longer, in the state that the caller expects. Nothing was changed."""

    code = 1600


class NipapPlanChangedError(NipapChangedError):
    """A change would not be as planned any more. Nothing was changed."""

    code = 1610

    def __init__(self, text: str, differences: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.differences = differences


class NipapConflictError(NipapChangedError):
    """An undo that is refused since objects were changed meanwhile. Nothing was changed.

    conflicts: the objects, each with its position in the change set and the reason; the first thousand.
    number: the number of all conflicts.
    """

    code = 1620

    def __init__(self, text: str, conflicts: Sequence[Mapping[str, Any]] = (), number: int = 0) -> None:
        super().__init__(text)
        self.conflicts = conflicts
        self.number = number

    def __str__(self) -> str:
        told = [str(self.args[0])]
        for each in self.conflicts:
            name = '' if each['object'] is None else f' ({each["object"]})'
            told.append(f'position {each["position"]}, {each["kind"]} {each["id"]}{name}: {each["why"]}')
        if self.number > len(self.conflicts):
            told.append(f'{self.number - len(self.conflicts)} more')
        return '; '.join(told)


class AuthError(NipapError):
    """The base of errors of authentication and authorization."""

    code = 1500


class AuthenticationMissingError(AuthError):
    """No credentials were sent."""

    code = 1500


class AuthenticationFailedError(AuthError):
    """The credentials are not valid.

    outcome: the reason in the log of sign-ins. claimed: the user of a genuine token that is not valid any more. Clients
    see neither.
    """

    code = 1510
    outcome = 'refused'
    claimed: str | None = None

    def logged_as(self, outcome: str, claimed: str | None = None) -> Self:
        """Set the reason for the log of sign-ins and return the error."""
        self.outcome, self.claimed = outcome, claimed
        return self


class TooManyLoginsError(AuthenticationFailedError):
    """Too many logins have failed. Further credentials are checked again after a while."""

    code = 1510
    outcome = 'limited'

    def __init__(self, text: str, retry_after_s: int = 1) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class AuthorizationFailedError(AuthError):
    """The user is known but may not do this."""

    code = 1520


def at_operation(position: int, method: str, error: NipapError) -> NipapError:
    """Return an error of the same class that names the operation of a batch in which the given error was raised."""
    named = type(error)(f'operation {position} ({method}): {error}')
    named.position, named.attribute = position, error.attribute
    return named


class Problems:
    """A collector of all errors of a call's arguments. The client sees the first, which carries the others."""

    def __init__(self) -> None:
        self.found: list[NipapError] = []

    def read(self, read: Callable[..., T], *args: Any, default: Any = None) -> T:
        """Return the result of `read` for the arguments; when it raises an error, note it and return `default`."""
        try:
            return read(*args)
        except NipapError as error:
            self.note(error)
            return default  # type: ignore[no-any-return]  # never used: `check` raises before

    def note(self, error: NipapError) -> None:
        """Note an error and the errors attached to it."""
        self.found += [error, *error.others]

    def check(self) -> None:
        """Raise the first noted error, if any, with the others attached."""
        if self.found:
            first, *others = self.found
            first.others = tuple(others)
            raise first
