"""The text of the code is plain English, as far as a count can tell: nouns instead of free relatives."""

from __future__ import annotations

from language import MOST_PER_1000, OPENING, REPOSITORY, Room, Text, docstrings, rooms


def test_rooms_have_few_free_relatives_and_docstrings_open_with_none() -> None:
    problems = []
    for room in rooms():
        if room.per_1000 > MOST_PER_1000:
            problems.append(f'{room.name}: {room.per_1000:.1f} free relatives per 1,000 words')
            problems += [f'    {place}: {line}' for place, line in room.free_relatives]
        opening = [text.place for text in room.texts if text.is_docstring and OPENING.match(text.text)]
        problems += [f'{place}: opens with a relative' for place in opening]
    assert not problems, '\n'.join(problems)


def test_free_relatives_are_counted() -> None:
    source = '"""Whatever.\n\nSend what was asked, to those who ask.\n"""\n\ndef f():\n    """Return."""\n'
    texts = list(docstrings(REPOSITORY / 'f.py', source))
    assert [text.line for text in texts] == [1, 7]
    assert Room('r', texts).free_relatives == [('f.py:3', 'Send what was asked, to those who ask.')] * 2
    assert not OPENING.match(texts[0].text)
    assert OPENING.match(Text(REPOSITORY, 1, 'Who asks.', True).text)
