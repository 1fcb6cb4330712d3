"""The members of a call that control how it is made, and the check for misspelt ones.

Unknown members of a call are ignored. A misspelt ``dry_run`` must not be: the change would be made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache

from nipap.attributes import read_boolean, shown
from nipap.errors import NipapExtraneousInputError, NipapValueError

CONTROLS = ('dry_run', 'plan', 'as_of', 'if_version', 'reason', 'idempotency_key')
OF_SOME = ('as_of', 'if_version')  # members of some calls. If a call ignored one, its answer would be another one.
OF_CHANGES = ('dry_run', 'plan')  # they belong to a changing call, not to its operations or to calls that read
LONGEST_PLAN = 4000
LONGEST_GROUP = 100  # characters of the name of a group


@lru_cache(maxsize=1024)
def meant(name: str, controls: tuple[str, ...] = CONTROLS) -> str | None:
    """Return the control member from which a name differs only by case, ``-``, ``_`` or one letter; else None."""
    plain = _plain(name)
    return next((control for control in controls if _is_near(plain, _plain(control))), None)


def refuse_misspelt(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse a member that looks like a misspelt control member, or one that the call does not have.

    known: the names of the other members.

    :raises NipapExtraneousInputError: naming the member, and the one that was probably meant.
    """
    for name in names:
        if name in OF_SOME and name not in known:
            raise NipapExtraneousInputError(f"extraneous member '{name}', this call does not have it").about(name)
        if name in known or name in CONTROLS:
            continue
        control = meant(name)
        if control is not None:
            raise NipapExtraneousInputError(f"extraneous member {shown(name)}, did you mean '{control}'?").about(name)


def read_dry_run(value: object) -> bool:
    """Parse the member ``dry_run``; nil is false.

    :raises NipapValueError: naming the value.
    """
    if value is None:
        return False
    try:
        return read_boolean(value)
    except NipapValueError as error:
        raise NipapValueError(f'{error} for dry_run').about('dry_run') from None


def read_plan(value: object) -> str | None:
    """Parse the member ``plan``, the token of a plan.

    :raises NipapValueError: naming the value.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > LONGEST_PLAN:
        accepted = f'must be the plan of a dry run, a string of at most {LONGEST_PLAN} characters'
        raise NipapValueError(f'Invalid value {shown(value)} for plan, {accepted}').about('plan')
    return value


def _plain(name: str) -> str:
    return name.lower().replace('_', '').replace('-', '')


def _is_near(one: str, other: str) -> bool:
    """Return whether two texts are equal, or differ by one letter that is changed, missing or added."""
    shorter, longer = sorted((one, other), key=len)
    if len(longer) - len(shorter) > 1:
        return False
    same = next((n for n, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(shorter))
    rest = shorter[same + 1 :] if len(shorter) == len(longer) else shorter[same:]
    return rest == longer[same + 1 :]
