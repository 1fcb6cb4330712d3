"""Write the pages of the reference from the tables of the program and from the played examples."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from played import MOMENT, TABLES, Played, Rest, Rpc
from words import ERRORS, OPERATORS, OPTIONS, READINGS

from nipap import errors
from nipap.attributes import TAG, Attribute
from nipap.calls import CALLS, Call, Mode
from nipap.cli import main as cli
from nipap.errors import NipapError
from nipap.rest.problems import STATUSES
from nipap.rest.routes import ROUTES
from nipap.search import smart_parsing
from nipap.search.query import COMPARISONS
from nipapd import config, maintenance, passwd

ROOT = Path(__file__).parent.parent.parent
HEADER = '<!-- Written by `make reference` from the tables of the program. Do not edit. -->\n'
WIDTH = 100
GROUPS: Mapping[str, tuple[str, ...]] = {
    'vrf': ('VRFs', '_vrf'),
    'pool': ('Pools', '_pool'),
    'prefix': ('Prefixes', '_prefix', '_free_prefix'),
    'asn': ('AS numbers', '_asn'),
    'tag': ('Tags', '_tag'),
    'webhook': ('Webhooks', '_webhook', '_dead_letter'),
    'history': ('The past, and undo', '_audit', '_change_set', '_removed', 'undo', 'restore'),
    'sign_in': ('Sign-ins', '_sign_in'),
    'daemon': ('The daemon, and many calls at once', ''),
}
# The types of a kind of attribute over XML-RPC and in JSON.
TYPES = {
    'text': ('string', 'string'),
    'rt': ('string', 'string'),
    'network': ('string', 'string'),
    'enum': ('string', 'string'),
    'integer': ('int', 'number'),
    'asn': ('int', 'number'),
    'number': ('string of digits', 'string of digits'),
    'boolean': ('boolean', 'boolean'),
    'time': ('dateTime, UTC', 'string, RFC 3339'),
    'expires': ('dateTime, UTC', 'string, RFC 3339'),
    'tags': ('array of strings', 'array of strings'),
    'networks': ('array of strings', 'array of strings'),
    'avps': ('struct of strings', 'object of strings'),
}
COMMANDS = {
    'add_prefix': '`nipap import FILE` adds the prefixes of a CSV file: [nipap](command-line.md#nipap).',
    'version': '`nipapd --version`',
    'db_version': '`nipapd --db-version`',
}


def write(played: Played) -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    pages = {f'calls-{group}.md': _calls_page(group, played) for group in GROUPS}
    return {
        'index.md': _index(),
        **pages,
        'attributes.md': _attributes(played),
        'search.md': _search(played),
        'smart-search.md': _smart_search(played),
        'errors.md': _errors(played),
        'configuration.md': _configuration(),
        'command-line.md': _command_line(),
    }


# ---------------------------------------------------------------- Markdown


def _page(title: str, *parts: str) -> str:
    return HEADER + f'\n# {title}\n\n' + '\n\n'.join(part.strip('\n') for part in parts if part) + '\n'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines.append(['---'] * len(lines[0]))
    lines += [[cell.replace('|', '\\|').replace('\n', ' ') for cell in row] for row in rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _code(value: object) -> str:
    """Return a value as code, in backticks that do not occur in the value."""
    text = str(value)
    return f'`` {text} ``' if '`' in text else f'`{text}`'


def _block(language: str, text: str) -> str:
    return f'```{language}\n{text}\n```'


def _text(doc: str) -> str:
    """Return a text of the program as Markdown."""
    return re.sub(r'``([^`]+)``', r'`\1`', doc).strip()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _pretty(value: object, literal: Callable[[object], str] = _json) -> str:
    """Return a value as JSON, or as `literal` writes it, broken where a line would be long."""
    text = literal(value)
    if len(text) <= WIDTH or not isinstance(value, dict | list):
        return text
    if isinstance(value, list):
        inner = ',\n'.join(_indented(_pretty(each, literal)) for each in value)
        return f'[\n{inner}\n]'
    lines: list[str] = []
    for name, each in value.items():
        part = f'{literal(name)}: {_pretty(each, literal)}'
        if lines and '\n' not in part and len(lines[-1]) + len(part) + 4 <= WIDTH and '\n' not in lines[-1]:
            lines[-1] += f', {part}'
        else:
            lines.append(part)
    return '{\n' + ',\n'.join(map(_indented, lines)) + '\n}'


def _indented(text: str) -> str:
    return '\n'.join(f'  {line}' for line in text.splitlines())


def _python(value: object) -> str:
    return _pretty(value, lambda each: repr(each).replace(repr(MOMENT), 'datetime(2026, 1, 31, 12, 0)'))


# ---------------------------------------------------------------- calls


def _index() -> str:
    rows = []
    for name, call in CALLS.items():
        routes = [f'`{method} {path}`' for (method, path), route in ROUTES.items() if route.call == name]
        if name.startswith('smart_search_'):
            plural = next(path for (_, path), route in ROUTES.items() if route.call == name.removeprefix('smart_'))
            routes = [f'`GET {plural}?q=`']
        link = f'[`{name}`](calls-{_group(name)}.md#{name})'
        rows.append([link, '<br>'.join(routes) or '–', COMMANDS.get(name, '–'), call.right.name.lower()])
    return _page(
        'Reference',
        'These pages are written from the tables of the program. Each example is played by a test.',
        """\
- [Attributes](attributes.md) of every object
- [Queries](search.md): operators and search options
- [Smart search](smart-search.md): the texts of search fields
- [Errors](errors.md) by number, with cause and cure
- [Configuration](configuration.md) and [command line](command-line.md)""",
        '## Calls',
        'Every call over XML-RPC, over REST below `/api/v1`, and at the command line. The right is the least '
        'that a user '
        'needs: each right includes those before it, *read*, *allocate*, *write*, *administer*. A read-only '
        'account may '
        'make the calls of *read*.',
        _table(('XML-RPC', 'REST', 'command line', 'right'), rows),
    )


def _group(name: str) -> str:
    for group, (_, *ends) in GROUPS.items():
        if any(end and name.endswith(end) for end in ends):
            return group
    return 'daemon'


def _calls_page(group: str, played: Played) -> str:
    parts = [_call(call, played) for name, call in CALLS.items() if _group(name) == group]
    intro = (
        'In the examples `nipap` is an XML-RPC client, and `auth` the struct `{"authoritative_source": '
        '"reference"}` that '
        'each call needs. Paths are below `/api/v1`.'
    )
    return _page(f'Calls: {GROUPS[group][0]}', intro, *parts)


def _call(call: Call, played: Played) -> str:
    parts = [f'## {call.name}', _text(call.doc)]
    facts = [f'Right: *{call.right.name.lower()}*.']
    facts.append('Takes `idempotency_key`, `dry_run` and `plan`.' if call.changes else 'Changes nothing.')
    if call.mode is Mode.COMPUTE:
        facts.append('Needs no database.')
    parts.append(' '.join(facts))
    if call.members:
        rows = [
            (f'`{member.name}`', 'yes' if member.required else 'no', _text(member.doc), _code(_json(member.example)))
            for member in call.members
        ]
        parts.append(_table(('member', 'needed', 'meaning', 'example'), rows))
    for made in played.rpc.get(call.name, ()):
        parts += ['XML-RPC:', _block('python', _rpc(made))]
    for request in played.rest.get(call.name, ()):
        parts += _rest(request)
    if call.name not in played.rest:
        parts.append('REST: in a `batch` only.')
    if call.name in COMMANDS:
        parts.append(f'Command line: {COMMANDS[call.name]}')
    return '\n\n'.join(parts)


def _rpc(made: Rpc) -> str:
    members = ["'auth': auth", *(f'{name!r}: {_python(value)}' for name, value in made.members.items())]
    sent = f'nipap.{made.method}({{{", ".join(members)}}})'
    if len(sent) > WIDTH:
        sent = f'nipap.{made.method}({{\n' + ''.join(f'{_indented(member)},\n' for member in members) + '})'
    if made.fault:
        return f'{sent}\n# Fault {made.fault[0]}: {made.fault[1]}'
    answer = '\n'.join(f'# {line}' for line in _python(made.answer).splitlines())
    return f'{sent}\n{answer}'


def _rest(made: Rest) -> list[str]:
    """Return a request over REST and its answer, part by part."""
    headers = ''.join(f', `{name}: {value}`' for name, value in made.headers.items())
    parts = [f'REST: `{made.method} {made.path}`{headers}']
    if made.body is not None:
        parts.append(_block('json', _pretty(made.body)))
    if made.answer is None:
        return [*parts, f'Answer: HTTP {made.status}']
    return [*parts, f'Answer: HTTP {made.status}', _block('json', _pretty(made.answer))]


# ---------------------------------------------------------------- attributes


def _attributes(played: Played) -> str:
    parts = []
    for kind, title in (('prefix', 'Prefix'), ('vrf', 'VRF'), ('pool', 'Pool'), ('asn', 'AS number')):
        defaults = played.defaults[kind]
        parts += [
            f'## {title}',
            _table(
                ('name', 'type', 'length or range', 'set by', 'default', 'example', 'meaning'),
                [_attribute(attribute, defaults) for attribute in TABLES[kind].values()],
            ),
        ]
    parts += ['## Tag', _table(('name', 'type', 'meaning'), [(f'`{t.name}`', 'string', t.doc) for t in TAG.values()])]
    types = _table(
        ('type', 'over XML-RPC', 'in JSON'),
        [(kind, *both) for kind, both in TYPES.items()],
    )
    return _page(
        'Attributes',
        '*Set by* is the client, or the daemon for what it derives. The *default* is the value of an object that was '
        "added without the attribute; nil is JSON's null. A text may not hold characters that XML 1.0 cannot carry.",
        *parts,
        '## Types',
        types,
    )


def _attribute(attribute: Attribute, defaults: Mapping[str, object]) -> tuple[str, ...]:
    length = ''
    if attribute.longest is not None:
        length = f'{attribute.longest} characters'
    if attribute.low is not None:
        length = f'{attribute.low} – {attribute.high}'
    if attribute.choices:
        length = ', '.join(attribute.choices)
    default = ''
    if attribute.writable:
        default = _code(_json(defaults[attribute.name])) if attribute.name in defaults else 'needed'
        default = 'nil' if default == '`null`' else default
    by = 'client' if attribute.writable else 'daemon'
    if attribute.name == 'asn':
        by, default = 'client, once', 'needed'
    return (
        *(f'`{attribute.name}`', attribute.kind, length, by, default),
        *(_code(_json(attribute.example)), _text(attribute.doc)),
    )


# ---------------------------------------------------------------- searches


def _search(played: Played) -> str:
    assert set(OPERATORS) == set(COMPARISONS)
    assert set(OPTIONS) == set(played.options)
    operators = [
        (_code(name), OPERATORS[name].meaning, _code(_json(query)), ', '.join(found) or 'nothing')
        for name, (query, found) in played.operators.items()
    ]
    options = [(f'`{name}`', _code(_json(played.options[name])), text) for name, text in OPTIONS.items()]
    options = [(name, '' if name == '`after`' else default, text) for name, default, text in options]
    query = {
        'operator': 'and',
        'val1': {'operator': 'equals', 'val1': 'type', 'val2': 'assignment'},
        'val2': {'operator': 'contained_within', 'val1': 'prefix', 'val2': '192.0.2.0/24'},
    }
    return _page(
        'Queries',
        'A query is a struct of `operator`, `val1` and `val2`. An operator of the table compares the attribute `val1` '
        'with the value `val2`. `avps.KEY` is the value of a pair. `and` and `or` join two queries. An empty struct '
        'finds everything. A query has at most 12,000 conditions.',
        _block('json', _pretty(query)),
        '## Operators',
        'The examples search these prefixes: 192.0.2.0/24 (reservation, tag core), 192.0.2.0/30 (assignment, VLAN 42), '
        '192.0.2.1/32 (host), 198.51.100.0/24 (assignment, quarantine) and 2001:db8::/32 (reservation, VLAN 7).',
        _table(('operator', 'meaning', 'example', 'finds'), operators),
        '## Search options',
        'XML-RPC takes them as `search_options`. REST takes `limit` in place of `max_result` and has no `offset`; the '
        'others are parameters of the path.',
        _table(('option', 'default', 'meaning'), options),
    )


def _smart_search(played: Played) -> str:
    doc = smart_parsing.__doc__ or ''
    grammar = doc.partition('The grammar, in the order in which a token is tried:\n\n')[2].partition('\n\n>>>')[0]
    assert [text for text, *_ in played.readings] == list(READINGS)
    rows = [
        (_code(text), _reading(interpretation), ', '.join(found) or 'nothing')
        for text, interpretation, found in played.readings
    ]
    return _page(
        'Smart search',
        'A smart search takes a text as people type it into a search field. The answer has an `interpretation` that '
        'says how each part was read. A text that is not understood finds nothing; its answer has `error` true.',
        '## Grammar',
        'A text is read from left to right. These rules are tried in order:',
        _text(grammar),
        '## Readings',
        'The prefixes are those of [the operators](search.md#operators); 192.0.2.1/32 has a pair `mac`.',
        _table(('text', 'read as', 'finds'), rows),
    )


def _reading(query: Mapping[str, Any]) -> str:
    """Return an interpretation in words."""
    part = query['interpretation']
    read_as = part['interpretation']
    if read_as in ('and', 'or'):
        return f'{_operand(query["val1"])} **{read_as}** {_operand(query["val2"])}'
    if part.get('error'):
        return f'not understood: {part["error_message"]}'
    if read_as == 'expression':
        return f'comparison {_code(part["string"])}'
    attribute = '' if read_as == 'text' else f' ({part["attribute"]} {part["operator"]})'
    return f'{read_as} {_code(part["string"]) if part["string"] else "that is empty"}{attribute}'


def _operand(query: Mapping[str, Any]) -> str:
    joined = query['interpretation']['interpretation'] in ('and', 'or')
    return f'({_reading(query)})' if joined else _reading(query)


# ---------------------------------------------------------------- errors


def _anchor(code: int) -> str:
    return f'{code} {ERRORS[code].title}'.lower().replace(' ', '-')


def _classes() -> Iterator[type[NipapError]]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, NipapError):
            yield value


def _errors(played: Played) -> str:
    statuses: dict[int, set[int]] = {}
    for error, status in STATUSES.items():
        statuses.setdefault(error.code, set()).add(int(status))
    codes = sorted({error.code for error in _classes()})
    assert codes == sorted(ERRORS)
    unplayed = {code for code, error in ERRORS.items() if error.unplayed}
    assert set(played.faults) == set(codes) - unplayed
    summary = [
        (f'[{code}](#{_anchor(code)})', ERRORS[code].title, ', '.join(map(str, sorted(statuses.get(code, ())))))
        for code in codes
    ]
    parts = []
    for code in codes:
        error = ERRORS[code]
        parts += [f'## {code} {error.title}', f'Cause: {error.cause}', f'Cure: {error.cure}']
        made = played.faults.get(code)
        if isinstance(made, Rpc):
            parts.append(_block('python', _shortened(_rpc(made))))
        elif made is not None:
            parts += _rest(made)
        parts.append(error.unplayed)
    return _page(
        'Errors',
        'A number keeps its meaning for ever. XML-RPC sends it as `faultCode`, REST as `code` of a problem, '
        'with the HTTP '
        'status of the table. The text says what was wrong, the value, and what is accepted.',
        _table(('number', 'meaning', 'HTTP status'), summary),
        *(part for part in parts if part),
    )


def _shortened(text: str) -> str:
    return text.replace("{'auth': auth}", '{}') if 'Fault 1000' in text else text


# ---------------------------------------------------------------- configuration and command line


def _configuration() -> str:
    text = (ROOT / 'etc/nipap.conf.dist').read_text()
    head, _, rest = text.partition('\n\n')
    parts = [re.sub(r'^# ?', '', head, flags=re.MULTILINE)]
    for name, comment, body in _sections(rest):
        parts += [f'## [{name}]', comment]
        rows = []
        for keys, meaning in _keys(body):
            for number, (key, default) in enumerate(keys):
                rows.append(
                    (
                        f'`{key}`',
                        _code(default) if default else '',
                        meaning if not number or not meaning else '(as above)',
                    )
                )
        parts.append(_table(('key', 'default', 'meaning'), rows))
    return _page('Configuration', *parts)


def _sections(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, comment above and lines of each section."""
    pieces = re.split(r'^#?\[([\w.]+)\]\n', text, flags=re.MULTILINE)
    above = ''
    names, bodies = pieces[1::2], pieces[2::2]
    above = pieces[0]
    for name, body in zip(names, bodies, strict=True):
        lines = body.rstrip('\n').split('\n')
        following: list[str] = []
        while lines and (not lines[-1] or re.match(r'#(?: |$)', lines[-1])):
            following.insert(0, lines.pop())
        yield name, _uncommented(above), '\n'.join(lines)
        above = '\n'.join(following)


def _uncommented(text: str) -> str:
    return '\n'.join(re.sub(r'^# ?', '', line) for line in text.strip().splitlines())


def _keys(body: str) -> Iterator[tuple[list[tuple[str, str]], str]]:
    """Yield the keys that stand together, with their defaults, and the comment above them."""
    comment: list[str] = []
    keys: list[tuple[str, str]] = []
    for line in [*body.splitlines(), '']:
        key = re.match(r'#?(\w+) =(?: (.*))?$', line)
        if key:
            keys.append((key[1], key[2] or ''))
            continue
        if keys:
            yield keys, ' '.join(comment)
            comment, keys = [], []
        if line.startswith('#'):
            comment.append(line[1:].strip())
    assert not keys


def _command_line() -> str:
    parts = []
    for program, parser, page in (
        ('nipapd', config._parser(), 'is the daemon'),
        ('nipap', cli._parser(), 'imports prefixes'),
        ('nipap-admin', maintenance._parser(), 'maintains the database'),
        ('nipap-passwd', passwd._parser(), 'manages local accounts'),
    ):
        parts += [f'## {program}', f'`{program}` {page}. `man {program}` has the manual page.', *_options(parser)]
    return _page('Command line', 'An option of the command line wins over the configuration.', *parts)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows, commands = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = list(action.choices.items())
            continue
        name = ', '.join(f'`{option}`' for option in action.option_strings) or f'`{action.metavar or action.dest}`'
        metavar = f' `{action.metavar or action.dest.upper()}`' if action.option_strings and action.nargs != 0 else ''
        rows.append((name + metavar, _help(action)))
    yield _table(('option', 'meaning'), rows)
    for name, command in commands:
        yield f'### {parser.prog} {name}'
        yield _text(re.sub(r'\n +', '\n', command.description or ''))
        yield from _options(command)


def _help(action: argparse.Action) -> str:
    text = (action.help or '').replace('%%', '%')
    return text.removesuffix(' (default: %(default)s)')
