"""Smart search: parse a text as people type it into a query struct.

The parsers are total: every string has an answer and none raises. They read from left to right in linear time
with a stack of their own, so neither length nor depth of the text matters.

The grammar, in the order in which a token is tried:

- ``(`` and ``)`` group. Inside a word, a ``(`` that nothing closes and a ``)`` that closes nothing are ordinary
  characters; such a ``)`` at the end of a word is an error, as is a ``(`` at its start;
- ``'…'`` or ``"…"`` at the start of a word is text and nothing else, blanks, signs and ``and`` included;
- ``#tag`` (``#"two words"``) finds a tag;
- ``attribute SIGN value`` is a comparison, with or without blanks around the sign. The value, and KEY in
  ``avps.KEY``, may be quoted; an unquoted value keeps pairs of parentheses, as in ``node~^(sw|r)1$``;
- ``and``, ``or``, ``AND``, ``OR`` join the parts before and after them; with nothing to join before them they are
  words, and at the end of the text or of a group they are dropped;
- ``*`` alone means the empty text, which finds everything;
- everything else is a word: an address, a prefix, a route target or an AS number where the searched objects have
  one, else text. The beginning of an address (``10.4.``) is text, and also finds the prefixes in its network; a MAC
  address is text in each of its notations, and the value of a pair.

Neighbours that nothing joins are joined by ``and``; there is no precedence.

>>> answer = parse_vrf_query('name = blue', lambda name: name == 'name', lambda name, sign, value: True)
>>> answer.error, answer.query['operator'], answer.query['val1'], answer.query['val2']
(False, '=', 'name', 'blue')
>>> answer.query['interpretation']
{'string': 'name=blue', 'interpretation': 'expression', 'attribute': 'name', 'operator': '=', 'error': False}
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from nipap.addresses import mac_pattern, read_beginning, read_mac
from nipap.attributes import MISSPELT
from nipap.search import patterns

Query = dict[str, object]
AttributeCheck = Callable[[str], bool]
"""Return whether an attribute of this name, which may be ``avps.KEY``, can be searched."""
ValueCheck = Callable[[str, str, str], bool]
"""Return whether a known attribute (first argument) can be compared by an operator sign with a value."""

FAILED = 'query interpretation failed'
UNKNOWN_ATTRIBUTE = 'unknown attribute'
INVALID_VALUE = 'invalid value'
UNCLOSED_QUOTE = 'unclosed quote'
UNCLOSED_PARENTHESES = 'unclosed parentheses'
UNOPENED_PARENTHESES = 'unopened parentheses'
TOO_LONG = 'too long'
TOO_MANY_WORDS = 'too many words'
FORBIDDEN_CHARACTER = 'forbidden character'

# Comparing an array by '=' asks whether it has the value.
ARRAYS = frozenset({'tags', 'inherited_tags', 'changed'})

EVERYTHING = '*'  # alone it means the same as the empty text

# Limits of a text. A word in a search for prefixes costs a tenth of a millisecond and three kilobytes of answer.
LONGEST_TEXT = 100_000  # characters
LONGEST_WORD = patterns.LONGEST
MOST_WORDS = 2_000

_JOINERS = frozenset({'and', 'or', 'AND', 'OR'})
# The signs that compare with a regular expression.
_MATCHES = frozenset({'~', '!~', '~*', '!~*'})
_QUOTES = frozenset('\'"')
_BLANKS = re.compile(r'\s*')
_PLAIN = re.compile(r'[^\s()]*')
_BRACKET_OR_BLANK = re.compile(r'[()]|\s+')
# Possessive quantifiers: when a start turns out to be no comparison, the match fails at once.
_COMPARISON = re.compile(
    r"""
    (?: avps\.(?: "(?P<double>[^"]*+)" | '(?P<single>[^']*+)' | (?P<key>[^\s()=<>~!]*+) )
      | (?P<name> (?! (?:and|or|AND|OR) (?![\w.-]) ) [^\W\d] \w*+ (?: [-.]\w++ )* )
    )
    \s*+ (?P<sign> !~\*|!~|!=|~\*|~|<<=|<<|<=|<|>>=|>>|>=|>|= ) \s*+
    """,
    re.VERBOSE,
)

_OCTET = '(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
_IPV4_ADDRESS = re.compile(rf'{_OCTET}(?:\.{_OCTET}){{3}}')
_IPV4_PREFIX = re.compile(rf'({_OCTET}(?:\.{_OCTET}){{0,3}})/(3[0-2]|[12]?[0-9])')
_IPV6_SHAPE = re.compile(r'([0-9a-fA-F:.]{2,45})(?:/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?')
_ROUTE_TARGET = re.compile(rf'(?:[0-9]+|{_OCTET}(?:\.{_OCTET}){{3}}):[0-9]+')
_ASN_NUMBER = re.compile(r'(?:as)?[0-9]+|[0-9]+\.[0-9]+', re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class SmartQuery:
    """The interpretation of a text.

    ``query`` is a query struct. Its parts carry an ``interpretation``, which says how they were read; clients see it,
    the query compiler ignores it. With ``error`` the tree is for showing only: at least one part could not be
    understood, and that part's interpretation has ``error`` true and an ``error_message`` of its own. A long text gives
    a deep tree: walk it iteratively.
    """

    query: Query
    error: bool
    error_message: str | None


def parse_prefix_query(text: str, attribute_ok: AttributeCheck, value_ok: ValueCheck) -> SmartQuery:
    """Interpret a search for prefixes: addresses, prefixes, route targets, inherited tags, comparisons and text."""
    return _parse(text, _PREFIX, attribute_ok, value_ok)


def parse_vrf_query(text: str, attribute_ok: AttributeCheck, value_ok: ValueCheck) -> SmartQuery:
    """Interpret a search for VRFs: tags, comparisons and text."""
    return _parse(text, _VRF, attribute_ok, value_ok)


def parse_pool_query(text: str, attribute_ok: AttributeCheck, value_ok: ValueCheck) -> SmartQuery:
    """Interpret a search for pools: tags, comparisons and text."""
    return _parse(text, _POOL, attribute_ok, value_ok)


def parse_asn_query(text: str, attribute_ok: AttributeCheck, value_ok: ValueCheck) -> SmartQuery:
    """Interpret a search for AS numbers: numbers, comparisons and text.

    Interpretations have ``error`` only if it is true.
    """
    return _parse(text, _ASN, attribute_ok, value_ok)


def parse_audit_query(text: str, attribute_ok: AttributeCheck, value_ok: ValueCheck) -> SmartQuery:
    """Interpret a search for audit entries: addresses, prefixes, comparisons and text."""
    return _parse(text, _AUDIT, attribute_ok, value_ok)


def parse_change_set_query(text: str, attribute_ok: AttributeCheck, value_ok: ValueCheck) -> SmartQuery:
    """Interpret a search for change sets: comparisons and text."""
    return _parse(text, _CHANGE_SET, attribute_ok, value_ok)


def patterns_of(query: Query) -> tuple[set[str], set[str]]:
    """Return the regular expressions of a smart query: its words, and the values of its comparisons.

    Operators of comparisons are signs. Call this function before the query is joined with another query.
    """
    words: set[str] = set()
    compared: set[str] = set()
    for leaf in _comparisons(query):
        if leaf['operator'] == 'regex_match':
            words.add(str(leaf['val2']))
        elif leaf['operator'] in _MATCHES:
            compared.add(str(leaf['val2']))
    return words, compared


def words(query: Query) -> set[str]:
    """Return the words that a smart query matches as regular expressions."""
    return patterns_of(query)[0]


def mark_invalid(query: Query, compared: Collection[str], unusable: Collection[str]) -> bool:
    """Mark some words, and comparisons with some expressions, as not understood. Return whether any were marked."""
    marked = False
    pending: list[object] = [query]
    while pending:
        node = pending.pop()
        if not isinstance(node, dict) or not isinstance(part := node.get('interpretation'), dict):
            continue
        if part['interpretation'] in ('and', 'or'):
            pending += (node['val1'], node['val2'])
        elif (part['interpretation'] == 'text' and part['string'] in unusable) or (
            node['operator'] in _MATCHES and node['val2'] in compared
        ):
            part |= {'error': True, 'error_message': INVALID_VALUE}
            marked = True
    return marked


def objections(query: Query) -> list[tuple[str, str]]:
    """Return the parts of a smart query that were not understood, as they were typed, each with the reason."""
    found: list[tuple[str, str]] = []
    pending: list[object] = [query]
    while pending:
        node = pending.pop()
        if isinstance(node, dict) and isinstance(part := node.get('interpretation'), dict):
            if part.get('error'):
                found.append((str(part['string']), str(part['error_message'])))
            elif part['interpretation'] in ('and', 'or'):
                pending += (node['val2'], node['val1'])
    return found


def _comparisons(query: Query) -> Iterator[Query]:
    """Yield the comparisons of a smart query, words included."""
    pending: list[object] = [query]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if node['operator'] in ('and', 'or'):
                pending += (node['val1'], node['val2'])
            else:
                yield node


def replace_words(query: Query, replacements: Mapping[str, str]) -> Query:
    """Return the query with some of its words() matched by another expression. Interpretations keep the typed word.

    The query itself is not changed. It is returned as it is if none of its words is replaced.
    """
    if not replacements or words(query).isdisjoint(replacements):
        return query
    root = dict(query)
    pending = [root]
    while pending:
        node = pending.pop()
        if node['operator'] == 'regex_match':
            word = str(node['val2'])
            node['val2'] = replacements.get(word, word)
            continue
        for side in ('val1', 'val2'):
            child = node[side]
            if isinstance(child, dict):
                node[side] = copy = dict(child)
                pending.append(copy)
    return root


def not_understood(text: str, message: str) -> SmartQuery:
    """Return the query of a text that is not understood as a whole."""
    return SmartQuery(_not_understood(text, message), True, FAILED)


@dataclass(frozen=True)
class _Dialect:
    """The rules by which texts for one kind of object are read."""

    label: str
    """The value of `attribute` in the interpretation of a text."""
    columns: tuple[str, ...]
    """The attributes to search for a word."""
    special: Callable[[str, ValueCheck], Query | None]
    """Return the query of a word with a meaning of its own, such as a network; None for a plain word."""
    tag: Callable[[str], Query] | None
    """Return the query of a tag. None for objects without tags."""
    aliases: Mapping[str, str]
    """The attributes by their other names."""
    beginning: Callable[[str], str | None] = lambda _word: None
    """Return the network of all addresses that begin with a word; None if the word begins no address."""
    says_no_error: bool = True
    """Whether the interpretation of a valid text has 'error': False."""

    def text(self, word: str) -> Query:
        """Return the query for a word in every column, and in other attributes, which the interpretation names."""
        mac = read_mac(word)
        network = self.beginning(word) if mac is None else None
        query = self.quoted(word) if mac is None else self._in_columns(word, mac_pattern(mac))
        if mac is not None and self.tag is not None:
            query = self._also(query, {'operator': 'equals_any', 'val1': 'avps', 'val2': mac}, 'mac_address', mac)
        elif network is not None:
            inside: Query = {'operator': 'contained_within_equals', 'val1': 'prefix', 'val2': network}
            query = self._also(query, inside, 'expanded', network)
        return query

    def quoted(self, word: str) -> Query:
        """Return the query for a word in every column, without any other reading."""
        return self._in_columns(word, _normal(word))

    def _also(self, text: Query, other: Query, name: str, shown: str) -> Query:
        """Return the query that matches if the query of a text or another query matches."""
        interpretation = text.pop('interpretation')
        assert isinstance(interpretation, dict)
        return {'operator': 'or', 'val1': text, 'val2': other, 'interpretation': interpretation | {name: shown}}

    def _in_columns(self, word: str, sought: str) -> Query:
        first, *others = self.columns
        query: Query = {'operator': 'regex_match', 'val1': first, 'val2': sought}
        for column in others:
            match: Query = {'operator': 'regex_match', 'val1': column, 'val2': sought}
            query = {'operator': 'or', 'val1': query, 'val2': match}
        query['interpretation'] = self.fine(
            {'string': word, 'interpretation': 'text', 'attribute': self.label, 'operator': 'regex', 'error': False}
        )
        return query

    def join(self, operator: str, left: Query, right: Query) -> Query:
        """Return the query that joins two queries by 'and' or 'or'."""
        return {
            'operator': operator,
            'val1': left,
            'val2': right,
            'interpretation': self.fine({'interpretation': operator, 'operator': operator, 'error': False}),
        }

    def fine(self, interpretation: Query) -> Query:
        """Return the interpretation of a part that was understood."""
        if not self.says_no_error:
            del interpretation['error']
        return interpretation


def _normal(text: str) -> str:
    """Return a text in normal form C, the form of stored texts."""
    return text if text.isascii() else unicodedata.normalize('NFC', text)


def _no_special(_word: str, _value_ok: ValueCheck) -> Query | None:
    return None


def _prefix_special(word: str, value_ok: ValueCheck) -> Query | None:
    """Read a word as an address, a prefix or a route target."""
    if not word[0].isdigit() and ':' not in word:
        return None
    if _IPV4_ADDRESS.fullmatch(word):
        return _address(word, 'IPv4 address')
    if match := _IPV4_PREFIX.fullmatch(word):
        return _ipv4_prefix(word, *match.groups())
    if _ROUTE_TARGET.fullmatch(word):
        return _route_target(word) if value_ok('vrf_rt', '=', word) else None
    return _ipv6(word) if ':' in word else None


def _network_special(word: str, value_ok: ValueCheck) -> Query | None:
    """Read a word as an address or a prefix."""
    return None if _ROUTE_TARGET.fullmatch(word) else _prefix_special(word, value_ok)


def _ipv6(word: str) -> Query | None:
    match = _IPV6_SHAPE.fullmatch(word)
    if match is None:
        return None
    try:
        network = ipaddress.IPv6Network(word, strict=False)
    except ValueError:
        return None
    if match[2] is None:
        return _address(word, 'IPv6 address')
    strict = None if ipaddress.IPv6Address(match[1]) == network.network_address else str(network)
    return _prefix(word, 'IPv6 prefix', None, strict)


def _ipv4_prefix(word: str, address: str, length: str) -> Query:
    expanded = f'{address}{".0" * (3 - address.count("."))}/{length}'
    strict = str(ipaddress.IPv4Network(expanded, strict=False))
    return _prefix(word, 'IPv4 prefix', None if expanded == word else expanded, None if strict == expanded else strict)


def _address(word: str, kind: str) -> Query:
    return {
        'operator': 'contains_equals',
        'val1': 'prefix',
        'val2': word,
        'interpretation': {
            'string': word,
            'interpretation': kind,
            'attribute': 'prefix',
            'operator': 'contains_equals',
            'error': False,
        },
    }


def _prefix(word: str, kind: str, expanded: str | None, strict: str | None) -> Query:
    """Return the query of a prefix: as typed, or written in full, or without its host bits."""
    interpretation: Query = {
        'string': word,
        'interpretation': kind,
        'attribute': 'prefix',
        'operator': 'contained_within_equals',
        'error': False,
    }
    if expanded is not None:
        interpretation['expanded'] = expanded
    if strict is not None:
        interpretation['strict_prefix'] = strict
    return {
        'operator': 'contained_within_equals',
        'val1': 'prefix',
        'val2': strict or expanded or word,
        'interpretation': interpretation,
    }


def _route_target(word: str) -> Query:
    return {
        'operator': 'equals',
        'val1': 'vrf_rt',
        'val2': word,
        'interpretation': {
            'string': word,
            'interpretation': 'vrf_rt',
            'attribute': 'VRF RT',
            'operator': 'equals',
            'error': False,
        },
    }


def _asn_special(word: str, value_ok: ValueCheck) -> Query | None:
    """Read a word as an AS number. Digits that are no valid AS number may be part of a name."""
    if not _ASN_NUMBER.fullmatch(word) or not value_ok('asn', '=', word):
        return None
    return {
        'operator': 'equals',
        'val1': 'asn',
        'val2': word,
        'interpretation': {'string': word, 'interpretation': 'asn', 'attribute': 'asn', 'operator': 'equals'},
    }


def _own_tag(tag: str) -> Query:
    return {'operator': 'equals_any', 'val1': 'tags', 'val2': tag, 'interpretation': _tag_interpretation(tag, 'tag')}


def _own_or_inherited_tag(tag: str) -> Query:
    return {
        'operator': 'or',
        'val1': {'operator': 'equals_any', 'val1': 'tags', 'val2': tag},
        'val2': {'operator': 'equals_any', 'val1': 'inherited_tags', 'val2': tag},
        'interpretation': _tag_interpretation(tag, '(inherited) tag'),
    }


def _tag_interpretation(tag: str, kind: str) -> Query:
    return {
        'string': f'#{tag}',
        'interpretation': kind,
        'attribute': 'tag',
        'operator': 'equals_any',
        'error': False,
    }


_PREFIX = _Dialect(
    label='description or comment or node or order_id or customer_id',
    columns=('comment', 'description', 'node', 'order_id', 'customer_id'),
    special=_prefix_special,
    tag=_own_or_inherited_tag,
    aliases=MISSPELT | {'pool': 'pool_name', 'vrf': 'vrf_rt'},
    beginning=read_beginning,
)
_VRF = _Dialect(
    label='vrf or name or description',
    columns=('name', 'description', 'rt'),
    special=_no_special,
    tag=_own_tag,
    aliases=MISSPELT | {'vrf': 'rt'},
)
_POOL = _Dialect(
    label='name or description',
    columns=('name', 'description'),
    special=_no_special,
    tag=_own_tag,
    aliases=MISSPELT | {'pool': 'name', 'vrf': 'vrf_rt'},
)
_ASN = _Dialect(
    label='name',
    columns=('name',),
    special=_asn_special,
    tag=None,
    aliases=MISSPELT,
    says_no_error=False,
)
_AUDIT = _Dialect(
    label='name or username or reason',
    columns=('name', 'username', 'reason'),
    special=_network_special,
    tag=None,
    aliases={
        'user': 'username',
        'group': 'change_group',
        'object': 'name',
        'attribute': 'changed',
        'source': 'authoritative_source',
    },
)
_CHANGE_SET = _Dialect(
    label='username or reason or group',
    columns=('username', 'reason', 'change_group'),
    special=_no_special,
    tag=None,
    aliases={'user': 'username', 'group': 'change_group', 'source': 'authoritative_source'},
)


@dataclass
class _Group:
    """The text as a whole or a pair of parentheses, while it is read."""

    start: int
    query: Query | None = None
    joiner: str | None = None
    """The `and` or `or` after the query so far; None if there is none yet."""

    def may_join(self) -> bool:
        """Return whether an 'and' or 'or' here has an operand before it."""
        return self.query is not None and self.joiner is None


def _parse(text: str, dialect: _Dialect, attribute_ok: AttributeCheck, value_ok: ValueCheck) -> SmartQuery:
    if len(text) > LONGEST_TEXT:
        return not_understood(text, TOO_LONG)
    if text.strip() == EVERYTHING:
        text = ''
    return _Parser(text, dialect, attribute_ok, value_ok).parse()


class _GivenUpError(Exception):
    """The rest of the text from this token on is not understood. The message is the reason."""


class _Parser:
    """A parser, which reads one text once."""

    def __init__(self, text: str, dialect: _Dialect, attribute_ok: AttributeCheck, value_ok: ValueCheck) -> None:
        self._text = text
        self._dialect = dialect
        self._attribute_ok = attribute_ok
        self._value_ok = value_ok
        self._pos = 0
        self._groups = [_Group(0)]
        self._words = 0
        self._failed = False

    def parse(self) -> SmartQuery:
        """Return the interpretation of the text."""
        self._skip_blanks()
        while self._pos < len(self._text):
            start = self._pos
            try:
                self._read_token()
            except _GivenUpError as why:
                self._give_up(start, str(why))
            self._skip_blanks()
        if len(self._groups) > 1:
            self._give_up(self._pos, UNCLOSED_PARENTHESES)
        query = self._groups[0].query
        if query is None:
            query = self._dialect.text('')
        return SmartQuery(query, self._failed, FAILED if self._failed else None)

    @cached_property
    def _paired(self) -> dict[int, int]:
        return _bracket_pairs(self._text, blanks=True)

    @cached_property
    def _closing(self) -> dict[int, int]:
        return _bracket_pairs(self._text)

    def _skip_blanks(self) -> None:
        blanks = _BLANKS.match(self._text, self._pos)
        self._pos = blanks.end() if blanks else self._pos

    def _give_up(self, start: int, message: str) -> None:
        """Make one error of the text from the outermost open parenthesis, or else from the start of the token."""
        if len(self._groups) > 1:
            start = self._groups[1].start
        del self._groups[1:]
        self._pos = len(self._text)
        self._failed = True
        self._join(_not_understood(self._text[start:], message))

    def _add(self, query: Query) -> None:
        """Join the query of a word, or of a part that counts as one, to the query so far."""
        self._words += 1
        if self._words > MOST_WORDS:
            raise _GivenUpError(TOO_MANY_WORDS)
        self._join(query)

    def _join(self, query: Query) -> None:
        group = self._groups[-1]
        if group.query is None:
            group.query = query
        else:
            group.query = self._dialect.join(group.joiner or 'and', group.query, query)
        group.joiner = None

    def _add_text(self, word: str, *, quoted: bool = False) -> None:
        if len(word) > LONGEST_WORD:
            self._failed = True
            self._add(_not_understood(word, TOO_LONG))
        else:
            self._add(self._dialect.quoted(word) if quoted else self._dialect.text(word))

    def _read_token(self) -> None:
        character = self._text[self._pos]
        if character == '(':
            self._groups.append(_Group(self._pos))
            self._pos += 1
        elif character == ')' and len(self._groups) > 1:
            self._pos += 1
            self._close_group()
        elif character in _QUOTES:
            self._add_text(self._read_quoted(), quoted=True)
        elif not self._read_tag() and not self._read_comparison():
            self._read_word()

    def _close_group(self) -> None:
        query = self._groups.pop().query
        if query is not None:
            self._join(query)

    def _read_quoted(self) -> str:
        """Read up to the closing quote."""
        end = self._text.find(self._text[self._pos], self._pos + 1)
        if end < 0:
            raise _GivenUpError(UNCLOSED_QUOTE)
        quoted = self._text[self._pos + 1 : end]
        self._pos = end + 1
        return quoted

    def _read_tag(self) -> bool:
        """Read a tag. Return False, and read nothing, if there is no tag here."""
        if self._dialect.tag is None or self._text[self._pos] != '#':
            return False
        start = self._pos
        self._pos += 1
        tag = self._read_quoted() if self._text[self._pos : self._pos + 1] in _QUOTES else self._read_plain()
        if not tag:
            self._pos = start
            return False
        self._add(self._dialect.tag(_normal(tag)))
        return True

    def _read_comparison(self) -> bool:
        """Read attribute, sign and value. Return False, and read nothing, if there is no comparison here."""
        head = _COMPARISON.match(self._text, self._pos)
        if head is None:
            return False
        start = self._pos
        self._pos = head.end()
        quoted = self._text[self._pos : self._pos + 1] in _QUOTES
        value = self._read_quoted() if quoted else self._read_value()
        if not value and not quoted:
            self._pos = start
            return False
        name = head['name']
        if name is None:
            name = 'avps.' + next(key for key in head.group('double', 'single', 'key') if key is not None)
        self._add(self._comparison(_normal(name), head['sign'], _normal(value)))
        return True

    def _comparison(self, typed: str, sign: str, value: str) -> Query:
        name = self._dialect.aliases.get(typed, typed)
        interpretation: Query = {
            'string': f'{typed}{sign}{value}',
            'interpretation': 'expression',
            'attribute': typed,
            'operator': sign,
            'error': False,
        }
        message = self._objection(name, sign, value)
        if message is None:
            interpretation = self._dialect.fine(interpretation)
        else:
            interpretation |= {'error': True, 'error_message': message}
            self._failed = True
        operator = 'equals_any' if sign == '=' and name in ARRAYS else sign
        return {'operator': operator, 'val1': name, 'val2': value, 'interpretation': interpretation}

    def _objection(self, name: str, sign: str, value: str) -> str | None:
        if not self._attribute_ok(name):
            return UNKNOWN_ATTRIBUTE
        return None if self._value_ok(name, sign, value) else INVALID_VALUE

    def _read_word(self) -> None:
        word = self._read_plain()
        group = self._groups[-1]
        if word in _JOINERS and group.may_join():
            group.joiner = word.lower()
        else:
            special = self._dialect.special(word, self._value_ok)
            if special is None:
                self._add_text(word)
            else:
                self._add(special)

    def _read_plain(self) -> str:
        """Read up to a blank or a grouping parenthesis."""
        return self._read_run(keep_pairs=False)

    def _read_value(self) -> str:
        """Read up to a blank or a parenthesis without its partner in the value."""
        return self._read_run(keep_pairs=True)

    def _ends_a_word(self, start: int) -> bool:
        """Return whether the parenthesis here is the last character of the word that began at `start`."""
        after = self._text[self._pos + 1 : self._pos + 2]
        escaped = self._pos > start and self._text[self._pos - 1] == '\\'
        return not escaped and (not after or after.isspace())

    def _read_run(self, *, keep_pairs: bool) -> str:
        start = self._pos
        while True:
            plain = _PLAIN.match(self._text, self._pos)
            self._pos = plain.end() if plain else self._pos
            character = self._text[self._pos : self._pos + 1]
            if character == ')' and len(self._groups) == 1:
                if not keep_pairs and self._ends_a_word(start):
                    raise _GivenUpError(UNOPENED_PARENTHESES)
                self._pos += 1
            elif character == '(' and self._pos > start and self._pos not in self._paired:
                self._pos += 1
            elif character == '(' and keep_pairs and self._pos in self._closing:
                self._pos = self._closing[self._pos] + 1
            else:
                return self._text[start : self._pos]


def _not_understood(string: str, message: str) -> Query:
    return {
        'operator': None,
        'val1': None,
        'val2': None,
        'interpretation': {
            'interpretation': None,
            'string': string,
            'attribute': 'text',
            'operator': None,
            'error': True,
            'error_message': message,
        },
    }


def _bracket_pairs(text: str, *, blanks: bool = False) -> dict[int, int]:
    """Map each opening parenthesis to its closing one. Pairs with blanks between them count only with `blanks`."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACKET_OR_BLANK.finditer(text):
        if match[0] == '(':
            opened.append(match.start())
        elif match[0] != ')':
            opened = opened if blanks else []
        elif opened:
            pairs[opened.pop()] = match.start()
    return pairs
