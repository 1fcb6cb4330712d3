"""Make requests over REST with the standard library."""

import base64
import json
import urllib.parse
import urllib.request
from typing import Any


def request(url: str, path: str, parameters: dict[str, Any] | None = None, **options: Any) -> urllib.request.Request:
    """Return a request. The user and password of the URL go into its header."""
    parts = urllib.parse.urlsplit(url)
    login = ':'.join(urllib.parse.unquote(part or '') for part in (parts.username, parts.password))
    address = f'{parts.scheme}://{parts.hostname}:{parts.port}/api/v1{path}'
    if parameters:
        address += '?' + urllib.parse.urlencode(parameters)
    made = urllib.request.Request(address, **options)
    made.add_header('Authorization', 'Basic ' + base64.b64encode(login.encode()).decode())
    made.add_header('NIPAP-Authoritative-Source', 'examples')
    return made


def ask(
    url: str, method: str, path: str, parameters: dict[str, Any] | None = None, body: Any = None, key: str | None = None
) -> Any:
    """Make a request and return its answer. key: an idempotency key."""
    data = None if body is None else json.dumps(body).encode()
    made = request(url, path, parameters, method=method, data=data)
    made.add_header('Content-Type', 'application/json')
    if key is not None:
        made.add_header('Idempotency-Key', key)
    with urllib.request.urlopen(made, timeout=60) as answer:
        content = answer.read()
    return json.loads(content) if content else None
