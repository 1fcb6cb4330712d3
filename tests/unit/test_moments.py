"""Moments: a text is understood as a whole, or refused. The results are compared with readings of other programs."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nipap.errors import NipapValueError
from nipap.moments import ALWAYS, NEVER, read_moment

UTC = dt.UTC


def read(text: str) -> dt.datetime | None:
    """Return the moment, or None if the text is refused."""
    try:
        return read_moment(text)
    except NipapValueError:
        return None


# ---------------------------------------------------------------- recorded mistakes

NOON = dt.datetime(2031, 12, 31, 12, tzinfo=UTC)
DAY = dt.datetime(2031, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ('text', 'moment'),
    [
        ('Wed, 31 Dec 2031 12:00:00 GMT', NOON),
        ('2031-12-31T12:00:00 GMT', NOON),
        ('2031-12-31t12:00:00z', NOON),
        ('2031-12-31Z', DAY),
        ('31.12.2031 12:00', NOON),
        ('31-Dec-2031', DAY),
        ('31. 12. 2031', DAY),
        ('12/31/2031 12:00:00 PM', NOON),
        ('31/12/2031', DAY),
        ('2031/12/31 12:00', NOON),
        ('2031-12-31 13:00:00.000000000 +0100', NOON),
        ('20311231T120000Z', NOON),
        ('2031-W01-3T12:00', NOON - dt.timedelta(364)),
        ('2031-365', DAY),
        ('2031-12-31T24:00:00', DAY + dt.timedelta(1)),
        ('2031-12-31T23:59:60Z', DAY + dt.timedelta(1)),
        ('Wed Dec 31 12:00:00 2031', NOON),
        ('Wed Dec 31 12:00:00 UTC 2031', NOON),
        ('Wed Dec 31 13:00:00 2031 +0100', NOON),
        ('Wed Dec 31 2031 13:00:00 GMT+0100 (Central European Standard Time)', NOON),
        ('Wednesday, 31-Dec-2031 12:00:00 GMT', NOON),
        ('Wed, 31 Dec 2031 07:00 EST', NOON),
        ('Wed, 31 Dec 2031 12:00:00 -0000', NOON),
        ('December 31st, 2031 at 12 pm', NOON),
        ('12:00 on 31 December 2031', NOON),
        ('01.01.2031', dt.datetime(2031, 1, 1, tzinfo=UTC)),
    ],
)
def test_moments_of_programs_and_people(text: str, moment: dt.datetime) -> None:
    assert read(text) == moment
    assert read(f'  {text} ') == moment
    assert read(text.upper()) == read(text.lower()) == moment


@pytest.mark.parametrize(
    'text',
    [
        *(
            '',
            ' ',
            '45658',
            '2031',
            '203112',
            '20311231',
            '20311231120000',
            '20311231120000Z',
            '1924948800',
            '@1924948800',
        ),
        *('tomorrow-ish', 'foo tomorrow', 'tomorrow foo', 'gibberish', 'xyzzy 99', 'last day of june', 'half a year'),
        *(
            'day after tomorrow',
            'a week from tuesday',
            'in 2 days ago',
            'this friday',
            '1 fortnight',
            '31 Dec',
            'Nov 5',
        ),
        *('31. Dezember 2031', 'mar 31 dic 2031', 'mié. 31 dic 2031', 'sam. 31 mai 2031', '31 dec 31', '31.12.31'),
        *('2031-12-31 12:00 CET', '2031-12-31 12:00:00 Z Z', '2031-12-31T12:00:00+99:00', '2031-12-31T25:00'),
        *('2031-06', '2031-13-01', '2031-02-30', '2031-02-30 12:00', '30.02.2031', '0000-01-01', '10000-01-01 00:00'),
        *('2031-12-31T12:00:60Z', '2031-12-31T24:00:01', '2031-W54-1', '2031-366', '31.12.2031 13:00 pm'),
        *(
            'Thu, 31 Dec 2031 12:00:00 GMT',
            'Mon 31 December 2031',
            '99999 years',
            '2031-12-31T12:00:00\u0660',
            '٢٠٣١-12-31',
        ),
        'now()',  # only in comparisons
        *('2031-12-31 12:00:', '2031-12-31 -', '31.12.2031,', '2031-12-31T', 'of 31 Dec 2031', '31 Dec 2031 m'),
    ],
)
def test_texts_that_are_not_understood_as_a_whole(text: str) -> None:
    with pytest.raises(NipapValueError, match=r'^Invalid date specification$'):
        read_moment(text)


def test_day_and_month_that_can_be_exchanged() -> None:
    for text in ('01.02.2030', '1/2/2030', '01-02-2030 12:00', 'at 12:00 01.02.2030'):
        with pytest.raises(NipapValueError, match=r'^Ambiguous date .*, write 2030-02-01 or 2030-01-02$'):
            read_moment(text)


def test_values_that_are_no_text() -> None:
    assert read_moment(None) == read_moment('never') == read_moment('Infinity') == NEVER
    assert read_moment(dt.datetime(2031, 12, 31, 12)) == NOON
    for value in (45658, 1.5, True, [], {}, dt.date(2031, 12, 31)):
        with pytest.raises(NipapValueError):
            read_moment(value)


def test_words_of_postgresql_in_comparisons() -> None:
    now = dt.datetime.now(UTC).replace(microsecond=0)
    midnight = now.replace(hour=0, minute=0, second=0)
    for word in ('now', 'Now()', 'NOW'):
        assert now <= read_moment(word, compared=True) <= now + dt.timedelta(seconds=60)
    for word, days in (('today', 0), ('Tomorrow', 1), ('yesterday', -1)):
        assert read_moment(word, compared=True) - midnight - dt.timedelta(days) in (dt.timedelta(0), dt.timedelta(1))
    assert read_moment('-infinity', compared=True) == ALWAYS
    assert read_moment('epoch', compared=True) == dt.datetime(1970, 1, 1, tzinfo=UTC)
    assert read('-infinity') is read('epoch') is None


# ---------------------------------------------------------------- English, compared with plain arithmetic

LENGTHS = {'second': 1, 'minute': 60, 'hour': 3600, 'day': 86400, 'week': 7 * 86400}
NUMBERS = {'a': 1, 'one': 1, 'two': 2, 'three': 3, 'six': 6, 'ten': 10, 'eleven': 11}


def is_close(text: str, expected: Callable[[dt.datetime], dt.datetime]) -> bool:
    """Return whether a text means the expected moment, computed at a time during the reading."""
    before = dt.datetime.now(UTC).replace(microsecond=0)
    found = read(text)
    after = dt.datetime.now(UTC)
    return found is not None and expected(before) <= found <= expected(after)


@given(
    st.lists(
        st.tuples(st.integers(0, 999) | st.sampled_from(sorted(NUMBERS)), st.sampled_from(sorted(LENGTHS))),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([' ', ', ', ' and ', ', and ']),
    st.sampled_from(['in {}', '{}', '{} from now', '{} later', '{} ago']),
)
def test_spans_of_time(spans: list[tuple[int | str, str]], between: str, form: str) -> None:
    assume(len({unit for _, unit in spans}) == len(spans))
    seconds = sum(LENGTHS[unit] * (n if isinstance(n, int) else NUMBERS[n]) for n, unit in spans)
    text = form.format(between.join(f'{n} {unit}{"" if n in (1, "a", "one") else "s"}' for n, unit in spans))
    assume('a hour' not in text)
    if 'ago' in form and len(spans) > 1:  # the library applies `ago` to the last span only
        assert read(text) is None
        return
    span = dt.timedelta(seconds=-seconds if 'ago' in form else seconds)
    assert is_close(text, lambda now: now + span), text


@given(st.integers(1, 60), st.sampled_from(['month', 'year']))
def test_months_and_years(number: int, unit: str) -> None:
    months = number * (12 if unit == 'year' else 1)

    def later(now: dt.datetime) -> dt.datetime:
        year, month = divmod(now.year * 12 + now.month - 1 + months, 12)
        last = (dt.datetime(year + month // 11, (month + 1) % 12 + 1, 1) - dt.timedelta(1)).day
        return now.replace(year=year, month=month + 1, day=min(now.day, last))

    assert is_close(f'in {number} {unit}s', later)


@pytest.mark.parametrize(
    ('text', 'days', 'clock'),
    [
        ('today', 0, '09:00'),
        ('tomorrow', 1, '09:00'),
        ('Yesterday', -1, '09:00'),
        ('tomorrow at noon', 1, '12:00'),
        ('tomorrow midnight', 1, '00:00'),
        ('tomorrow at 17:30', 1, '17:30'),
        ('today 5 pm', 0, '17:00'),
        ('2 days from tomorrow', 3, '09:00'),
        ('eod', 0, '17:00'),
        ('noon', 0, '12:00'),
        ('10:30', 0, '10:30'),
        ('5pm', 0, '17:00'),
    ],
)
def test_days_and_times(text: str, days: int, clock: str) -> None:
    def expected(now: dt.datetime) -> dt.datetime:
        return dt.datetime.combine(now.date() + dt.timedelta(days), dt.time.fromisoformat(clock), UTC)

    assert is_close(text, expected)


@pytest.mark.parametrize('weekday', ['monday', 'Tue', 'wed', 'thursday', 'fri', 'saturday', 'Sun'])
def test_weekdays(weekday: str) -> None:
    for form, least, most in (('{}', 1, 7), ('next {}', 1, 14), ('last {}', -14, -1), ('{} at 10:00', 1, 7)):
        today = dt.datetime.now(UTC).date()
        found = read(form.format(weekday))
        assert found is not None, form
        assert found.strftime('%a') == weekday[:3].capitalize()
        assert least - 1 <= (found.date() - today).days <= most + 1, form


# ---------------------------------------------------------------- every form, mutilated, compared with another reading

MOMENTS = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2199, 12, 31)).map(
    lambda moment: moment.replace(microsecond=0)
)
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
# Days and months in eight languages, as in their locales, since this machine may have none of these locales.
LOCALES = {
    'en': ('mon tue wed thu fri sat sun', 'jan feb mar apr may jun jul aug sep oct nov dec', '%a %d %b %Y %H:%M:%S'),
    'de': ('mo di mi do fr sa so', 'jan feb mär apr mai jun jul aug sep okt nov dez', '%a %d %b %Y %H:%M:%S'),
    'fr': (
        'lun. mar. mer. jeu. ven. sam. dim.',
        'janv. févr. mars avril mai juin juil. août sept. oct. nov. déc.',
        '%a %d %b %Y %H:%M:%S',
    ),
    'es': ('lun mar mié jue vie sáb dom', 'ene feb mar abr may jun jul ago sep oct nov dic', '%a %d %b %Y %H:%M:%S'),
    'it': ('lun mar mer gio ven sab dom', 'gen feb mar apr mag giu lug ago set ott nov dic', '%a %d %b %Y, %H:%M:%S'),
    'sv': ('mån tis ons tor fre lör sön', 'jan feb mar apr maj jun jul aug sep okt nov dec', '%a %d %b %Y %H:%M:%S'),
    'nl': ('ma di wo do vr za zo', 'jan feb mrt apr mei jun jul aug sep okt nov dec', '%a %d %b %Y %H:%M:%S'),
    'pt': ('seg ter qua qui sex sáb dom', 'jan fev mar abr mai jun jul ago set out nov dez', '%a %d %b %Y %H:%M:%S'),
}
NUMERIC = ('%d.%m.%Y', '%d/%m/%Y', '%m/%d/%Y', '%d-%m-%Y', '%Y/%m/%d', '%Y.%m.%d')


@given(MOMENTS, OFFSETS, st.sampled_from('Tt '), st.sampled_from([0, 1, 3, 6, 9]), st.booleans())
def test_rfc_3339(moment: dt.datetime, zone: dt.timezone, between: str, digits: int, utc: bool) -> None:
    zone = dt.UTC if utc else zone
    written = moment.replace(tzinfo=zone)
    fraction = '.' + '7' * digits if digits else ''
    offset = 'z' if utc else written.isoformat()[19:]
    text = f'{moment:%Y-%m-%d}{between}{moment:%H:%M:%S}{fraction}{offset}'
    micro = int('7' * min(digits, 6) + '0' * (6 - min(digits, 6)) or 0)
    assert read(text) == written.replace(microsecond=micro)


@given(MOMENTS, OFFSETS)
def test_rfc_5322(moment: dt.datetime, zone: dt.timezone) -> None:
    written = moment.replace(tzinfo=zone)
    text = email.utils.format_datetime(written)
    assert read(text) == written == email.utils.parsedate_to_datetime(text)
    assert read(email.utils.format_datetime(moment.replace(tzinfo=UTC), usegmt=True)) == moment.replace(tzinfo=UTC)


@given(MOMENTS)
def test_ctime(moment: dt.datetime) -> None:
    text = time.asctime(moment.timetuple())
    assert read(text) == moment.replace(tzinfo=UTC)


@given(MOMENTS, st.sampled_from(NUMERIC), st.booleans())
def test_dates_in_numbers(moment: dt.datetime, form: str, timed: bool) -> None:
    text = moment.strftime(form + (' %H:%M:%S' if timed else ''))
    exchangeable = form[:2] != '%Y' and moment.day <= 12 and moment.day != moment.month
    expected = moment if timed else dt.datetime.combine(moment.date(), dt.time())
    assert read(text) == (None if exchangeable else expected.replace(tzinfo=UTC))


def in_language(moment: dt.datetime, language: str) -> str:
    days, months, form = LOCALES[language]
    form = form.replace('%a', days.split()[moment.weekday()]).replace('%b', months.split()[moment.month - 1])
    return moment.strftime(form)


@given(MOMENTS, st.sampled_from(sorted(LOCALES)))
def test_eight_languages(moment: dt.datetime, language: str) -> None:
    """Only English is read. If a date in another language is read, the moment must be right."""
    found = read(in_language(moment, language))
    assert found == moment.replace(tzinfo=UTC) if language == 'en' or found is not None else True


WRITTEN = st.one_of(
    st.builds(lambda moment, zone: moment.replace(tzinfo=zone).isoformat(), MOMENTS, OFFSETS),
    st.builds(lambda moment, zone: email.utils.format_datetime(moment.replace(tzinfo=zone)), MOMENTS, OFFSETS),
    st.builds(lambda moment: time.asctime(moment.timetuple()), MOMENTS),
    st.builds(lambda moment, form: moment.strftime(f'{form} %H:%M'), MOMENTS, st.sampled_from(NUMERIC)),
    st.builds(in_language, MOMENTS, st.sampled_from(sorted(LOCALES))),
)
ALPHABET = st.sampled_from(' .,:/-+TZ0123456789adeghmnopst')


@st.composite
def mutilated(draw: st.DrawFn) -> str:
    """Draw a date with a few characters removed, exchanged or added."""
    text = draw(WRITTEN)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        kind = draw(st.sampled_from(['remove', 'add', 'exchange', 'cut']))
        if kind == 'cut':
            text = draw(st.sampled_from([text[:at], text[at:]]))
        else:
            text = text[:at] + ('' if kind == 'remove' else draw(ALPHABET)) + text[at + (kind != 'add') :]
    return text


@given(mutilated())
def test_a_mutilated_moment_is_refused_or_read_with_its_numbers(text: str) -> None:
    """Every number of a text appears in the moment that is read."""
    found = read(text)
    if found is None or re.search('[0-9]', text) is None:
        return
    assert text_says(text.lower().strip(), found), (text, found)


MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
SPANS = re.compile('(second|minute|hour|day|week|month|year|sec|min)s?|[0-9][hdwy]|noon|today|tomorrow')


def text_says(text: str, found: dt.datetime) -> bool:
    """Return whether a moment accounts for each number and word of a text, in the zone that the text names."""
    if SPANS.search(text) and not any(month in text for month in MONTHS):
        return True  # English is covered by the tests above
    zone = re.search(r'(?<=[0-9 tz])([+-])([0-9]{2}):?([0-9]{2})?( *\([a-z ]+\))?$', text)
    here = found
    if zone and (':' in text[: zone.start()] or 't' in text[: zone.start()]):
        minutes = int(zone[2]) * 60 + int(zone[3] or 0)
        here = found.astimezone(dt.timezone(dt.timedelta(minutes=-minutes if zone[1] == '-' else minutes)))
        text = text[: zone.start()]
    numbers = sorted(int(number) for part in re.findall('[0-9]+', text) for number in _split(part, text))
    values = {here.year, here.day, here.hour, here.minute, here.second}
    month_named = any(month in text for month in MONTHS)
    if month_named and MONTHS[here.month - 1] not in text:
        return False
    if not month_named:
        values.add(here.month)
    allowed = {*values, here.hour % 12, 0} | ({12} if here.hour in (0, 12) else set()) | _iso_numbers(here)
    return all(number in allowed or number == here.microsecond for number in numbers) or 'w' in text


def _split(part: str, text: str) -> list[str]:
    """Return the numbers in a run of digits: basic ISO 8601 writes them together."""
    if len(part) == 8 and part + 't' in text:
        return [part[:4], part[4:6], part[6:]]
    if len(part) in (4, 6) and 't' + part in text:
        return [part[n : n + 2] for n in range(0, len(part), 2)]
    return [part]


def _iso_numbers(here: dt.datetime) -> set[int]:
    # 24:00:00 and :60 are the next moment. A day of the year has three digits.
    before = here - dt.timedelta(seconds=1)
    more = {before.year, before.month, before.day, 24, 60, 59, 23} if (here.hour, here.minute) == (0, 0) else set()
    return more | {here.timetuple().tm_yday}
