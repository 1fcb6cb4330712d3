"""Parse moments as people and programs write them. A text is understood as a whole, or it is refused.

The accepted forms, in the order in which they are tried:

- ISO 8601 and RFC 3339: ``2031-12-31``, ``2031-12-31T12:00:00.5+01:00``, ``20311231t120000z``, ``2031-W52-3``,
  ``2031-365``; a blank may stand for the T and before the zone.
- A date with a year of four digits, in numbers or with an English month, beside an optional time, zone and English
  weekday: RFC 5322, ctime, HTTP, ``31.12.2031 12:00``, ``1-Jan-2030``, ``Dec 31, 2031 5 pm GMT``. A date in numbers
  is refused when day and month can be exchanged. A weekday is refused when it does not fit the date.
- English relative to now: ``tomorrow at noon``, ``next friday``, ``in 2 days``, ``1 year and 2 months``, ``eom``.

A number alone is never a moment. Without a zone a moment is UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import cache
from typing import NoReturn

import parsedatetime
from dateutil import parser as dateutil

from nipap.errors import NipapValueError

NEVER = datetime.max.replace(tzinfo=UTC)  # stands for infinity; PostgreSQL's own is later than any date
ALWAYS = datetime.min.replace(tzinfo=UTC)  # stands for -infinity
LONGEST = 100  # characters

_NEVER_WORDS = frozenset({'never', 'infinity'})

_MONTH = r'(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|' + (
    r'oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)'
)
_WEEKDAYS = ('monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday')
_WEEKDAY = r'(?:mon(?:day)?|tue(?:s(?:day)?)?|wed(?:nesday)?|thu(?:rs?(?:day)?)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)'
_DAY = r'[0-9]{1,2}(?:st|nd|rd|th)?'
_CLOCK = (
    r'(?:(?:2[0-3]|[01]?[0-9]):[0-5][0-9](?::[0-5][0-9](?:[.,][0-9]{1,9})?)?'
    r'|(?:1[0-2]|0?[1-9])(?::[0-5][0-9](?::[0-5][0-9])?)?\ ?[ap]\.?m\.?)'
)
# The zones of RFC 5322. Other abbreviations name several zones and are refused.
_HOURS = {'z': 0, 'ut': 0, 'utc': 0, 'gmt': 0} | {
    f'{place}{kind}t': hours + (kind == 'd')
    for place, hours in (('e', -5), ('c', -6), ('m', -7), ('p', -8))
    for kind in 'sd'
}
_OFFSET = r'[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?'
_ZONE = rf'(?:(?:utc|gmt)?{_OFFSET}(?:\ \([a-z ]+\))?|{"|".join(sorted(_HOURS, key=len, reverse=True))})'

_ISO = re.compile(
    rf"""
    (?P<date> [0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}} | [0-9]{{4}}-[0-9]{{3}} | [0-9]{{4}}-W[0-9]{{2}}-[0-9]
      | [0-9]{{8}}(?=T) | [0-9]{{7}}(?=T) | [0-9]{{4}}W[0-9]{{3}} )
    (?: [T ] (?P<clock> [0-9]{{2}} (?: :[0-9]{{2}} (?: :[0-9]{{2}} (?:[.,][0-9]+)? )?
                          | [0-9]{{2}} (?: [0-9]{{2}} (?:[.,][0-9]+)? )? )? ) )?
    \ ? (?P<zone> Z | {_OFFSET} )?
    """,
    re.VERBOSE,
)
_DATE = (
    rf'(?:{_DAY}(?:\.\ ?|\ of\ |,?\ |-|/|){_MONTH}(?:\.?,?\ |\.|-|/|)[0-9]{{4}}'  # 31 Dec 2031
    rf'|{_MONTH}(?:\.?\ \ ?|-|/){_DAY}(?:,?\ |-|/)[0-9]{{4}}'  # Dec 31, 2031
    rf'|[0-9]{{4}}(?:,?\ |-|/){_MONTH}(?:\ |-|/){_DAY}'  # 2031 Dec 31
    r'|[0-9]{1,2}(?P<sign>\.\ ?|/|-)[0-9]{1,2}(?P=sign)[0-9]{4}'  # 31.12.2031
    r'|[0-9]{4}(?P<after>[./-])[0-9]{1,2}(?P=after)[0-9]{1,2})'  # 2031/12/31
)
# The name of the month, the day, the time, a zone and the year, in the order of C's ctime.
_CTIME = re.compile(
    rf'(?:(?P<weekday>{_WEEKDAY})\ )?(?P<month>{_MONTH})\ \ ?(?P<day>[0-9]{{1,2}})\ (?P<clock>{_CLOCK})'
    rf'(?:\ (?P<zone>{_ZONE}))?\ (?P<year>[0-9]{{4}})(?:\ (?P<offset>{_OFFSET}))?'
)
_DATED = re.compile(
    rf'(?:(?P<weekday>{_WEEKDAY})\.?,?\ \ ?)?(?P<date>{_DATE})'
    rf'(?:(?:,?\ (?:at\ )?|t)(?P<clock>{_CLOCK}))?(?:\ ?(?P<zone>{_ZONE}))?'
)
_TIMED = re.compile(
    rf'(?:at\ )?(?P<clock>{_CLOCK})(?:\ ?(?P<zone>{_ZONE}))?'
    rf'(?:,?\ (?:on\ )?(?:(?P<weekday>{_WEEKDAY})\.?,?\ )?(?P<date>{_DATE}))?'
)

_NUMBER = r'(?:[0-9]{1,5}|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven)'
_UNIT = r'(?:seconds?|secs?|minutes?|mins?|hours?|days?|weeks?|months?|years?)'
_SPAN = rf'(?:{_NUMBER}\ {_UNIT}|[0-9]{{1,5}}[hdwy])'
_SPANS = rf'{_SPAN}(?:(?:,?\ and|,)?\ {_SPAN}){{0,3}}'
_ENGLISH = re.compile(
    rf"""
    now | today | tomorrow | yesterday | noon | midnight | eod | eom | eoy | end\ of\ (?:day|month|year)
    | (?: today | tomorrow | yesterday | (?:next\ |last\ )?{_WEEKDAY} ) (?:\ (?:at\ )?(?:{_CLOCK}|noon|midnight))?
    | (?:next|last)\ (?:week|month|year)
    | in\ {_SPANS} | {_SPANS} (?:\ from\ now | \ later | \ hence )? | {_SPAN} (?:\ from\ (?:today|tomorrow) | \ ago)
    """,
    re.VERBOSE,
)
# Days in a comparison are read like in PostgreSQL: former versions passed the text of a search to it unchanged.
_COMPARED = {
    'today': timedelta(0),
    'tomorrow': timedelta(days=1),
    'yesterday': timedelta(days=-1),
}


def read_moment(value: object, *, compared: bool = False) -> datetime:
    """Return a moment in UTC; NEVER for nil, ``never`` and ``infinity``.

    compared: the moment is the value of a comparison. As in PostgreSQL, ``today``, ``tomorrow`` and ``yesterday`` are
    then midnight, and ``-infinity`` (ALWAYS) and ``epoch`` are moments too. Otherwise these days begin at 9:00.

    :raises NipapValueError: the value is no moment, or is ambiguous.
    """
    if value is None:
        return NEVER
    if isinstance(value, str):
        value = _read_text(value.strip(), compared=compared)
    if isinstance(value, datetime):
        return _to_utc(value)
    _refuse()


def is_relative(text: str) -> bool:
    """Return whether a text that is a moment depends on the current time, like ``tomorrow`` and ``17:00``."""
    words = text.strip().lower()
    timed = _TIMED.fullmatch(words)
    return _ENGLISH.fullmatch(words) is not None or (timed is not None and timed['date'] is None)


def _refuse() -> NoReturn:
    raise NipapValueError('Invalid date specification')


def _to_utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        _refuse()


def _read_text(text: str, *, compared: bool) -> datetime | None:
    words = text.lower() if text.isascii() and len(text) <= LONGEST else ''
    if words in _NEVER_WORDS:
        return NEVER
    if not words or words.isdigit():
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    if compared:
        if words == 'now()':
            words = 'now'
        if words in ('-infinity', 'epoch'):
            return ALWAYS if words == '-infinity' else datetime.fromtimestamp(0, UTC)
        if words in _COMPARED:
            return datetime.combine(now.date(), time(), UTC) + _COMPARED[words]
    try:
        return _read_iso(words.upper()) or _read_dated(words, text) or _read_english(words, now)
    except (ValueError, OverflowError):
        return None


def _read_iso(text: str) -> datetime | None:
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    day, clock = found['date'], found['clock'] or '00'
    leap = clock[-2:] == '60' and len(clock) in (6, 8)  # RFC 3339 has leap seconds
    if leap:
        clock = f'{clock[:-2]}59'
    read: datetime = dateutil.isoparse(f'{day}T{clock.replace(",", ".")}')
    moment = read.replace(tzinfo=_zone(found['zone'] or 'Z'))
    if not leap:
        return moment
    following = _to_utc(moment) + timedelta(seconds=1)
    return following if (following.day, following.hour, following.minute) == (1, 0, 0) else None


def _zone(text: str) -> timezone:
    """Return the zone in a text that `_ZONE` matches."""
    word = text.lower().partition(' ')[0]
    if word in _HOURS:
        return timezone(timedelta(hours=_HOURS[word]))
    digits = re.sub('[^0-9]', '', word).ljust(4, '0')
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if '-' in word else offset)


def _read_dated(words: str, text: str) -> datetime | None:
    found = _CTIME.fullmatch(words)
    if found is not None:
        if found['zone'] and found['offset']:
            return None
        day = f'{found["day"]} {found["month"]} {found["year"]}'
        zone = found['zone'] or found['offset']
    else:
        found = _DATED.fullmatch(words) or _TIMED.fullmatch(words)
        if found is None:
            return None
        day, zone = found['date'], found['zone']
    clock = time() if found['clock'] is None else dateutil.parse(_plain(found['clock']), default=_A_DAY).time()
    read = datetime.now(UTC).date() if day is None else _read_date(day, text)
    if found['weekday'] and not _WEEKDAYS[read.weekday()].startswith(found['weekday'][:3]):
        return None
    return datetime.combine(read, clock, _zone(zone or 'z'))


_A_DAY = datetime(2000, 1, 1)


def _plain(clock: str) -> str:
    """Return a time in the form of dateutil: a fraction with a dot, ``pm`` without dots."""
    clock = clock.replace('a.m', 'am').replace('p.m', 'pm').rstrip('.')
    return clock.replace(',', '.')


def _read_date(text: str, whole: str) -> date:
    """Return the date in a text that `_DATE` matches. whole: the text for the error message.

    :raises NipapValueError: day and month can be exchanged.
    """
    plain = text.replace(' of ', ' ').replace('. ', '.')
    year_first = text[:4].isdigit()
    found: list[date] = [
        dateutil.parse(plain, default=_A_DAY, dayfirst=day_first, yearfirst=year_first).date()
        for day_first in ((False,) if year_first else (True, False))
    ]
    if found[0] != found[-1]:
        raise NipapValueError(f'Ambiguous date ({whole}), write {found[0]} or {found[-1]}')
    return found[0]


@cache
def _calendar() -> parsedatetime.Calendar:
    return parsedatetime.Calendar(version=parsedatetime.VERSION_CONTEXT_STYLE)


def _read_english(words: str, now: datetime) -> datetime | None:
    if _ENGLISH.fullmatch(words) is None:
        return None
    try:
        moment, context = _calendar().parseDT(words, sourceTime=now.replace(tzinfo=None))
    except (ValueError, OverflowError, TypeError, AttributeError, IndexError, KeyError):
        return None  # the library fails on some odd inputs
    return moment if context.hasDateOrTime and isinstance(moment, datetime) else None
