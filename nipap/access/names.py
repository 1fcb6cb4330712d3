"""The rules for names of new users, which keep names from being mistaken for each other.

A name consists of ASCII and of words of one alphabet each. Invisible characters and forms of other characters are
refused, and so are words that look like ASCII.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator

from nipap.text import forbidden_character

LONGEST_NAME = 100
LONGEST_FULL_NAME = 200
ACCEPTED = (
    f'accepted are 1 to {LONGEST_NAME} characters: ASCII without ":", and letters of one alphabet in each word, '
    'which must not look like ASCII, in the normal form C'
)

# Letters that look like an ASCII letter, by confusables.txt of Unicode (UTS 39).
_LOOK_ALIKES = """
131 184 18D 196 1A6-1A7 1B7 1BC-1BD 1C0 21C 222-223 251 261 263 269-26A 26F 28B 28F 37F 391-392 395-397 399-39A
39C-39D 39F 3A1 3A4-3A5 3A7 3B1 3B3 3B9 3BD 3BF 3C1 3C3 3C5 3DC 3E8 3F3 3FA 405-406 408 410 412 415 417 41A 41C-41E
420-423 425 42C 430-431 433 435 43E 440-441 443 445 455-456 458 461 474-475 4AE-4AF 4BB 4BD 4C0 4CF 4E0 501 50C
51B-51D 54D 54F 555 561 563 566 570 578 57C-57D 581 584-585 B20 D20 101D 10E7 10FF 1200 12D0 13A0-13A2 13A5 13A9-13AC
13B3 13B7 13BB 13BD 13C0 13C2-13C3 13CE-13CF 13D2 13D4-13D5 13D9-13DA 13DE-13DF 13E2 13E6-13E7 13EE 13F3-13F4 142F
144C 146D 146F 1472 148D 14AA 14BF 1541 157C-157D 1587 15AF 15B4 15C5 15DE 15EA 15F0 15F7 16B7 16C1 16D5-16D6 1D04
1D0F 1D11 1D1C 1D20-1D22 1D26 1D83 1D8C 1E9D 1EFF 2C85 2C8E 2C92 2C94 2C98 2C9A 2C9E-2C9F 2CA2-2CA6 2CA8 2CAC 2CCA
2CCC 2CD0 2CD2 2D38-2D39 2D4F 2D54-2D55 2D5D A4D0-A4D4 A4D6-A4D7 A4D9-A4DA A4DC-A4DD A4DF-A4E3 A4E6-A4E7 A4EA-A4EC
A4EE A4F0 A4F2-A4F4 A644 A647 A6DF A731 A75A A76A A76E A798-A799 A79F A7AB A7B2-A7B4 AB32 AB35 AB3D AB47-AB48 AB4E
AB52 AB5A AB75 AB81 AB83 AB93 ABA9-ABAA ABAF
"""
_EAST_ASIAN = frozenset({'HIRAGANA', 'KATAKANA', 'KATAKANA-HIRAGANA', 'IDEOGRAPHIC', 'BOPOMOFO', 'HANGUL', 'CJK'})
_latin = re.compile('[a-zA-Z\u00c0-\u024f\u0259\u1e00-\u1eff]').match
_BLANK_LETTERS = frozenset('\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f')
# The last two ranges overrule the direction of the text around them.
_CONTROLS = frozenset((*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))


def _ranges(text: str) -> Iterator[str]:
    for first, _, last in (word.partition('-') for word in text.split()):
        yield from map(chr, range(int(first, 16), int(last or first, 16) + 1))


_looks_like_ascii = frozenset(_ranges(_LOOK_ALIKES)).union(map(chr, range(128))).issuperset


def problem_of(name: str) -> str | None:
    """Return why a name is not accepted for a user, as the end of a sentence about the name; None if it is accepted.

    ':' is refused because HTTP Basic splits there. '@' is accepted: such a user logs in with the name of a back end
    behind it, as in ann@example.com@local.
    """
    if not name.strip():
        return 'must not be empty'
    if len(name) > LONGEST_NAME:
        return f'must not have more than {LONGEST_NAME} characters'
    for character in (':', *control_characters(name)):
        if character in name:
            return f'must not contain {character!r}'
    if name != name.strip() or '  ' in name:
        return 'must not have blanks at its ends, or two in a row'
    if name.isascii():
        return None
    return _problem_of_letters(name)


def _problem_of_letters(name: str) -> str | None:
    if unicodedata.normalize('NFKC', name) != name:
        return 'must be in the normal form C, without forms of other letters'
    for character in name:
        if not character.isascii() and not _is_letter(character):
            return f'must not contain {character!a}, which is no letter of a name'
    for is_word, characters in itertools.groupby(name, lambda character: unicodedata.category(character)[0] in 'LM'):
        word = ''.join(characters)
        alphabets = {_alphabet(character) for character in word}
        if is_word and len(alphabets) > 1:
            return f'must not mix alphabets in one word ({word!a}: {", ".join(sorted(alphabets))})'
        if is_word and not word.isascii() and _looks_like_ascii(word):
            return f'must not look like ASCII ({word!a})'
    return None


def _is_letter(character: str) -> bool:
    """Return whether a character is a visible letter or mark of an alphabet.

    Letters of phonetic alphabets do not count, since many are ASCII letters in another shape.
    """
    kind, first = unicodedata.category(character), _first_word(character)
    if kind[0] not in 'LM' or character in _BLANK_LETTERS or first in ('COMBINING', 'VARIATION', 'MODIFIER'):
        return False
    return first != 'LATIN' or (kind in ('Lu', 'Ll') and _latin(character) is not None)


def _alphabet(character: str) -> str:
    first = _first_word(character)
    return 'East Asian' if first in _EAST_ASIAN else first.title()


def _first_word(character: str) -> str:
    return unicodedata.name(character, '').partition(' ')[0]


def control_characters(text: str) -> list[str]:
    """Return the characters of a text that control terminals, lines or documents."""
    if text.isprintable():
        return []
    return [character for character in text if forbidden_character(character) or ord(character) in _CONTROLS]
