"""The description of the REST interface: OpenAPI 3.1 from the tables of attributes and methods, and a page.

`nipap.attributes` documents the attributes, `nipap.rest.texts` the operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from importlib import resources

from flask import Flask, Response
from flask.globals import request_ctx
from werkzeug.exceptions import NotFound

from nipap import __version__
from nipap.attributes import MAX_ASN
from nipap.rest.objects import AUDIT_ENTRIES, CHANGE_SETS, PAST, RESOURCES, TAGS, Resource, digest, encode
from nipap.rest.parameters import LARGEST_KEY, Parameter
from nipap.rest.problems import CONTENT_TYPE, STATUSES
from nipap.rest.routes import MERGE, ROUTES
from nipap.rest.schemas import (
    BATCH,
    INTEGER,
    PRINTABLE,
    TEXT,
    VERSIONS,
    Schema,
    listed,
    merge_of,
    ref,
    result,
    schemas,
)
from nipap.rest.texts import BODIES, TEXTS

JSON = 'application/json'
AS_NOTATION = '^([Aa][Ss][1-9][0-9]{0,8}|([Aa][Ss])?[0-9]{1,4}[.][1-9][0-9]{0,3})$'
PAGE = '/api/docs'
FILES = {
    'swagger-ui.css': 'text/css',
    'swagger-ui-bundle.js': 'text/javascript',
    'favicon-32x32.png': 'image/png',
}
START = """window.onload = () => SwaggerUIBundle({
  url: '/api/v1/openapi.json', dom_id: '#swagger-ui', deepLinking: true, validatorUrl: null
});
"""
HTML = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>nipapd REST API</title>
<link rel="stylesheet" href="{PAGE}/swagger-ui.css">
<link rel="icon" type="image/png" href="{PAGE}/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{PAGE}/swagger-ui-bundle.js"></script>
<script src="{PAGE}/start.js"></script>
</body>
</html>
"""
# The page loads nothing from other hosts, and only these files as scripts. It sets styles of elements and has inline
# pictures.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_to(app: Flask, root: str) -> None:
    """Add the description, below `root`, and the page to an application."""

    def description() -> Response:
        return _static(_encoded(root), 'application/json')

    def page() -> Response:
        return _static(HTML.encode(), 'text/html; charset=utf-8')

    def file(name: str) -> Response:
        if name == 'start.js':
            return _static(START.encode(), 'text/javascript')
        if name not in FILES:
            raise NotFound
        return _static(_file(name), FILES[name])

    app.add_url_rule(f'{root}/openapi.json', 'openapi', description, methods=['GET'])
    app.add_url_rule(PAGE, 'docs', page, methods=['GET'])
    app.add_url_rule(f'{PAGE}/<name>', 'docs file', file, methods=['GET'])


@cache
def _encoded(root: str) -> bytes:
    return encode(describe(root))


@cache
def _file(name: str) -> bytes:
    """Return a file of Swagger UI, as published by npm (`make swagger`)."""
    return (resources.files('nipap.rest') / 'swagger_ui' / name).read_bytes()


@cache
def _tag(content: bytes) -> str:
    return digest(content)


def _static(content: bytes, content_type: str) -> Response:
    response = Response(content, content_type=content_type)
    response.set_etag(_tag(content))
    response.headers['Cache-Control'] = 'no-cache'
    response.headers['Content-Security-Policy'] = POLICY
    response.headers['X-Content-Type-Options'] = 'nosniff'
    response.headers['Referrer-Policy'] = 'no-referrer'
    response.make_conditional(request_ctx.request)
    return response


# ---------------------------------------------------------------- the description


_INTRODUCTION = """\
* A **VRF** is an address space. VRF 0, `default`, always exists; other VRFs are identified by their route target.
* A **prefix** is a network in a VRF. Prefixes nest: a *reservation* holds reservations and *assignments*, an assignment
  holds *hosts*. Parents, indent, inherited tags and used addresses are derived.
* A **pool** is a named set of prefixes to allocate from: the lowest free block is found and added in one transaction.
* A **query** is `{"operator": …, "val1": …, "val2": …}`; `and` and `or` join two queries. `q=` takes a text instead.

Each request is one transaction, audit entry included. Errors are `application/problem+json` with a permanent
`code`. A changing request with an `Idempotency-Key` can be sent again until it is answered, and is done once.
"""


def describe(root: str) -> Schema:
    """Return the whole description as JSON values."""
    paths: dict[str, Schema] = {}
    for resource in RESOURCES:
        paths |= _collection(resource)
    paths |= _looking(TAGS)
    for resource in PAST:
        paths |= _looking(resource)
    paths |= _past()
    paths |= _calls()
    paths |= _events()
    paths['/sign-ins'] = {
        'get': _operation(
            'list_sign_in',
            'sign-ins',
            _of('list_sign_in'),
            {'200': _answer('Sign-ins.', result(listed(ref('schemas', 'SignIn'))))},
            _parameters(_ACTOR),
        )
    }
    paths |= _undo()
    for (method, path), route in ROUTES.items():
        operation = paths[path][method.lower()]
        operation['parameters'] += [_query_parameter(parameter) for parameter in route.parameters.values()]
        operation['parameters'] += _parameters(['IfMatch'] if route.conditional else [])
        if route.merges:
            content = operation['requestBody']['content']
            content[MERGE] = {**content[JSON], 'schema': merge_of(content[JSON]['schema'])}
        if route.served and route.changes:
            operation['responses'] = _with_plan(operation['responses'])
        if route.served and route.shows_past:
            usual = operation['responses']['200']
            headers = {**usual.get('headers', {}), **_headers(['AsOf'])}
            operation['responses'] = {**operation['responses'], '200': {**usual, 'headers': headers}}
        if not route.served:
            del paths[path][method.lower()]
    return {
        'openapi': '3.1.0',
        'info': {
            'title': 'nipapd',
            'version': __version__,
            'summary': 'IP address management: VRFs, pools, prefixes and AS numbers.',
            'description': _INTRODUCTION,
            'license': {'name': 'MIT', 'identifier': 'MIT'},
        },
        'servers': [{'url': root}],
        'security': [{'basic': []}, {'bearer': []}],
        'tags': [{'name': resource.plural} for resource in (*RESOURCES, TAGS, *PAST)]
        + [{'name': name} for name in ('calls', 'events', 'webhooks', 'sign-ins')],
        'paths': {path: its for path, its in paths.items() if its},
        'components': {
            'schemas': schemas(),
            'parameters': _PARAMETERS | _query_parts(),
            'headers': _HEADERS,
            'responses': _problems(),
            'securitySchemes': {
                'basic': {'type': 'http', 'scheme': 'basic'},
                'bearer': {'type': 'http', 'scheme': 'bearer', 'bearerFormat': 'JWT'},
            },
        },
    }


def _with_plan(responses: Schema) -> Schema:
    """Return the responses of a change, with that of a dry run."""
    plan = ref('schemas', 'Plan')
    usual = responses.get('200')
    if usual is None:
        return {'200': _answer('The plan, for `dry_run`.', plan), **responses}
    both = {'anyOf': [usual['content'][JSON]['schema'], plan]}
    return {**responses, '200': {**usual, 'content': _content(both)}}


# ---- parameters and headers


def _parameter(name: str, where: str, schema: Schema, text: str) -> Schema:
    return {'name': name, 'in': where, 'required': where == 'path', 'schema': schema, 'description': text}


_KEY = {'type': 'integer', 'minimum': 0, 'maximum': LARGEST_KEY}
_NAME = {**PRINTABLE, 'maxLength': 255}  # letters beyond ASCII are sent as UTF-8
_PARAMETERS: dict[str, Schema] = {
    'key': _parameter('key', 'path', _KEY, 'The `id`.'),
    'asn': _parameter(
        'key',
        'path',
        {'anyOf': [{'type': 'integer', 'minimum': 1, 'maximum': MAX_ASN}, {**TEXT, 'pattern': AS_NOTATION}]},
        'The number, also as `AS64500` or in asdot.',
    ),
    'IfMatch': _parameter('If-Match', 'header', TEXT, 'Change the object only if it still has this `ETag`, else 412.'),
    'IfNoneMatch': _parameter('If-None-Match', 'header', TEXT, '304 if the answer still has this `ETag`.'),
    'IdempotencyKey': _parameter(
        'Idempotency-Key',
        'header',
        {**TEXT, 'minLength': 1, 'maxLength': 255, 'pattern': '^[!#-~]([ -~]*[!-~])?$'},  # or the same in quotes
        'The change is made once for each key, however often it is sent.',
    ),
    'Reason': _parameter(
        'NIPAP-Reason',
        'header',
        {**PRINTABLE, 'maxLength': 1000},
        'The reason for the change; kept with its change set. In UTF-8.',
    ),
    'Group': _parameter(
        'NIPAP-Group',
        'header',
        {**PRINTABLE, 'maxLength': 100},
        'The import or bulk action that the change is a part of; kept with its change set. In UTF-8.',
    ),
    'Source': _parameter('NIPAP-Authoritative-Source', 'header', _NAME, 'The system that a change comes from.'),
    'Username': _parameter('NIPAP-Username', 'header', _NAME, 'The user to act for; from trusted users only.'),
    'FullName': _parameter('NIPAP-Full-Name', 'header', _NAME, 'The full name of that user.'),
    'ReadOnly': _parameter(
        'NIPAP-Read-Only',
        'header',
        {**TEXT, 'enum': ['true', 'false', '']},  # an empty header counts as absent
        'Whether changes are refused for this request; from trusted users only.',
    ),
}
_HEADER_NAMES = {'AsOf': 'NIPAP-As-Of', 'ChangeSet': 'NIPAP-Change-Set'}  # names that cannot be names of components
_HEADERS: dict[str, Schema] = {
    'AsOf': {'description': 'With `as_of`: the position, change set and moment of the state.', 'schema': TEXT},
    'ChangeSet': {'description': 'The number of the change set of the request.', 'schema': INTEGER},
    'ETag': {'description': 'Identifies this state of the content.', 'schema': TEXT},
    'Location': {'description': 'The path of the added object. Several added objects have none.', 'schema': TEXT},
    'Link': {'description': 'With `rel="next"`: the next page.', 'schema': TEXT},
}


def _query_parameter(parameter: Parameter) -> Schema:
    return parameter.described() if parameter.part is None else ref('parameters', parameter.part)


def _query_parts() -> dict[str, Schema]:
    """Return the query parameters that several routes share."""
    every = (parameter for route in ROUTES.values() for parameter in route.parameters.values())
    return {parameter.part: parameter.described() for parameter in every if parameter.part is not None}


def _parameters(names: Iterable[str]) -> list[Schema]:
    return [ref('parameters', name) for name in names]


_ACTOR = ('Source', 'Username', 'FullName', 'ReadOnly')
_LOOK = ('IfNoneMatch',)
_CHANGE = (*_ACTOR, 'IdempotencyKey', 'Reason', 'Group')


# ---- answers


def _content(schema: Schema) -> Schema:
    return {JSON: {'schema': schema}}


def _answer(text: str, schema: Schema | None = None, headers: Iterable[str] = ()) -> Schema:
    answer: Schema = {'description': text}
    if schema is not None:
        answer['content'] = _content(schema)
    if headers:
        answer['headers'] = _headers(headers)
    return answer


def _headers(names: Iterable[str]) -> Schema:
    return {_HEADER_NAMES.get(name, name): ref('headers', name) for name in names}


def _statuses() -> list[int]:
    return sorted({*STATUSES.values(), 500})


def _problems() -> dict[str, Schema]:
    """Return a response for each status of an error, with the codes that it may carry."""
    found = {}
    for status in _statuses():
        codes = sorted({error.code for error, its in STATUSES.items() if its == status})
        text = HTTPStatus(status).phrase + (f' ({", ".join(map(str, codes))})' if codes else '')
        found[f'Problem{status}'] = {
            'description': text,
            'content': {CONTENT_TYPE: {'schema': ref('schemas', 'Problem')}},
        }
    return found


def _operation(
    name: str,
    tag: str,
    text: str,
    answers: Mapping[str, Schema],
    parameters: Iterable[Schema] = (),
    body: Schema | None = None,
) -> Schema:
    problems = {str(status): ref('responses', f'Problem{status}') for status in _statuses()}
    operation: Schema = {
        'operationId': name,
        'tags': [tag],
        'summary': name.replace('_', ' ').capitalize(),
        'description': text,
        'parameters': list(parameters),
        'responses': {**answers, **problems},
    }
    if body is not None:
        content: Schema = {'schema': body, 'example': BODIES[name]}
        operation['requestBody'] = {'required': True, 'content': {JSON: content}}
    return operation


def _of(method: str) -> str:
    """Return the description of an operation."""
    return TEXTS[method]


# ---- paths


def _looking(resource: Resource) -> dict[str, Schema]:
    """Return the paths to list and search objects."""
    name, kind, path = resource.schema, resource.kind, f'/{resource.plural}'
    found = {
        '200': _answer('A page of objects.', ref('schemas', f'{name}List'), ['ETag', 'Link']),
        '304': _answer('As before.'),
    }
    listing = _operation(
        f'list_{kind}',
        resource.plural,
        'Return the objects that match every parameter and the text `q`.',
        found,
        _parameters((*_ACTOR, *_LOOK)),
    )
    members = {'query': ref('schemas', f'{name}Query'), **({'q': TEXT} if resource is not TAGS else {})}
    asked: Schema = {'type': 'object', 'additionalProperties': False, 'properties': members}
    searching = _operation(
        f'search_{kind}', resource.plural, _of(f'search_{kind}'), {'200': found['200']}, _parameters(_ACTOR), asked
    )
    return {path: {'get': listing}, f'{path}/search': {'post': searching}}


def _collection(resource: Resource) -> dict[str, Schema]:
    """Return all paths of objects that can be changed."""
    name, kind, plural = resource.kind.capitalize(), resource.kind, resource.plural
    one, key = ref('schemas', name), _parameters(['asn' if kind == 'asn' else 'key'])
    paths = _looking(resource)
    paths[f'/{plural}']['post'] = _operation(
        f'add_{kind}',
        plural,
        _of(f'add_{kind}'),
        {'201': _answer('The added object.', one, ['ETag', 'Location', 'ChangeSet'])},
        _parameters(_CHANGE),
        ref('schemas', f'{name}New'),
    )
    shown = _answer('The object.', one, ['ETag'])
    paths[f'/{plural}/{{key}}'] = {
        'get': _operation(
            f'get_{kind}',
            plural,
            f'One {kind}.',
            {'200': shown, '304': _answer('As before.')},
            [*key, *_parameters((*_ACTOR, *_LOOK))],
        ),
        'patch': _operation(
            f'edit_{kind}',
            plural,
            _of(f'edit_{kind}'),
            {'200': _answer('The edited object.', one, ['ETag', 'ChangeSet'])},
            [*key, *_parameters(_CHANGE)],
            ref('schemas', f'{name}Attr'),
        ),
        'delete': _operation(
            f'remove_{kind}',
            plural,
            _of(f'remove_{kind}'),
            {'204': _answer('The object was removed.', headers=['ChangeSet'])},
            [*key, *_parameters(_CHANGE)],
        ),
    }
    return paths


def _past() -> dict[str, Schema]:
    """Return the paths of one change set, and of the history of one object."""
    as_before = {'304': _answer('As before.')}
    one = _answer('The change set.', ref('schemas', CHANGE_SETS.schema), ['ETag'])
    text, parameters = _of('list_change_set'), _parameters(['key', *_ACTOR, *_LOOK])
    paths: dict[str, Schema] = {
        '/changes/{key}': {'get': _operation('get_change_set', 'changes', text, {'200': one, **as_before}, parameters)}
    }
    page = _answer('A page of audit entries.', ref('schemas', f'{AUDIT_ENTRIES.schema}List'), ['ETag', 'Link'])
    for resource in RESOURCES:
        kind, plural = resource.kind, resource.plural
        paths[f'/{plural}/{{key}}/history'] = {
            'get': _operation(
                f'history_of_{kind}',
                plural,
                f'Return the audit entries of one {kind}, also of one that was removed, the newest first.',
                {'200': page, **as_before},
                _parameters(['asn' if kind == 'asn' else 'key', *_ACTOR, *_LOOK]),
            )
        }
    return paths


def _calls() -> dict[str, Schema]:
    """Return the paths outside collections."""
    prefixes: Schema = {'type': 'array', 'items': ref('schemas', 'Prefix')}
    paths: dict[str, Schema] = {
        '/version': {
            'get': _operation(
                'version', 'calls', _of('version'), {'200': _answer('The versions.', VERSIONS)}, _parameters(_ACTOR)
            )
        },
        '/batch': {
            'post': _operation(
                'batch',
                'calls',
                _of('batch'),
                {'200': _answer('The answers, in order.', result({'type': 'array', 'items': {}}), ['ChangeSet'])},
                _parameters(_CHANGE),
                BATCH,
            )
        },
    }
    for resource in RESOURCES:
        if resource.kind in ('pool', 'prefix'):
            path = f'/{resource.plural}/{{key}}'
            paths[f'{path}/allocations'] = {
                'post': _operation(
                    f'allocate_from_{resource.kind}',
                    resource.plural,
                    f'Allocate the lowest free blocks of this {resource.kind}: as many as requested, or none.',
                    {'201': _answer('The added prefixes.', result(prefixes), ['Location', 'ChangeSet'])},
                    _parameters(['key', *_CHANGE]),
                    ref('schemas', f'{resource.kind.capitalize()}Allocation'),
                )
            }
            paths[f'{path}/free'] = {
                'get': _operation(
                    f'find_free_in_{resource.kind}',
                    resource.plural,
                    _of('find_free_prefix'),
                    {'200': _answer('Free blocks.', result({'type': 'array', 'items': TEXT}))},
                    _parameters(['key', *_ACTOR]),
                )
            }
    return paths


def _events() -> dict[str, Schema]:
    """Return the paths of events and webhooks."""
    hook = ref('schemas', 'Webhook')
    letters = result({'type': 'array', 'items': {'type': 'object'}})
    last = _parameter('Last-Event-ID', 'header', TEXT, 'As the parameter `after`.')
    stream: Schema = {'description': 'Events.', 'content': {'text/event-stream': {'schema': TEXT}}}

    def about(name: str, doc: str, answers: Mapping[str, Schema], body: Schema | None = None) -> Schema:
        names = [] if name in _OF_ALL else ['key']
        names += _ACTOR if name.startswith(('list', 'get')) else _CHANGE
        return _operation(name, 'webhooks', doc, answers, _parameters(names), body)

    return {
        '/events': {
            'get': _operation(
                'stream_events',
                'events',
                'Every change from now on, as server-sent events.',
                {'200': stream},
                [last, *_parameters(_ACTOR)],
            )
        },
        '/webhooks': {
            'get': about('list_webhook', _of('list_webhook'), {'200': _answer('All webhooks.', result(listed(hook)))}),
            'post': about(
                'add_webhook',
                _of('add_webhook'),
                {'201': _answer('The added webhook.', hook, ['Location'])},
                ref('schemas', 'WebhookNew'),
            ),
        },
        '/webhooks/{key}': {
            'get': about('get_webhook', 'One webhook.', {'200': _answer('The webhook.', hook)}),
            'patch': about(
                'edit_webhook',
                _of('edit_webhook'),
                {'200': _answer('The edited webhook.', hook)},
                ref('schemas', 'WebhookAttr'),
            ),
            'delete': about('remove_webhook', _of('remove_webhook'), {'204': _answer('The webhook was removed.')}),
        },
        '/webhooks/{key}/dead-letters': {
            'get': _operation(
                'list_dead_letter',
                'webhooks',
                _of('list_dead_letter'),
                {'200': _answer('Dead letters.', letters)},
                _parameters(['key', *_ACTOR]),
            )
        },
        '/webhooks/{key}/dead-letters/resend': {
            'post': about(
                'resend_dead_letter',
                _of('resend_dead_letter'),
                {
                    '202': _answer(
                        'The dead letters will be sent again.', {'type': 'object', 'properties': {'resent': INTEGER}}
                    )
                },
                ref('schemas', 'Resend'),
            )
        },
    }


_OF_ALL = ('list_webhook', 'add_webhook')


def _undo() -> dict[str, Schema]:
    """Return the paths of undo."""
    undone = _answer('What was undone.', ref('schemas', 'Undone'), ['ChangeSet'])
    page = _answer('Removed objects.', {**result(listed(ref('schemas', 'Removed')))})
    steps = {
        'type': 'object',
        'properties': {'group': TEXT, 'change_sets': listed(ref('schemas', 'Undone')), 'skipped': listed(INTEGER)},
    }
    asked: Schema = {
        'type': 'object',
        'additionalProperties': False,
        'required': ['group'],
        'properties': {'group': {**PRINTABLE, 'minLength': 1, 'maxLength': 100}, 'partial': {'type': 'boolean'}},
    }
    return {
        '/changes/{key}/undo': {
            'post': _operation('undo', 'changes', _of('undo'), {'200': undone}, _parameters(['key', *_CHANGE]))
        },
        '/change-groups/undo': {
            'post': _operation(
                'undo_group',
                'changes',
                _of('undo_group'),
                {'200': _answer('What was undone, change set by change set.', steps, ['ChangeSet'])},
                # It has several transactions, and can be sent again without a key.
                _parameters(name for name in _CHANGE if name != 'IdempotencyKey'),
                asked,
            )
        },
        '/removed': {
            'get': _operation('list_removed', 'changes', _of('list_removed'), {'200': page}, _parameters(_ACTOR)),
        },
        **{
            f'/{resource.plural}/{{key}}/restore': {
                'post': _operation(
                    f'restore_{resource.kind}',
                    resource.plural,
                    _of('restore'),
                    {'200': undone},
                    _parameters(['asn' if resource.kind == 'asn' else 'key', *_CHANGE]),
                )
            }
            for resource in RESOURCES
        },
    }
