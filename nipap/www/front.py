"""The first page, at ``/``: the name of the program, the health of the daemon, and the next steps.

The page is for people that open the address which the daemon printed. It holds nothing that needs a login.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape

from flask import Flask, Response

from nipap import __version__
from nipap.errors import NipapError
from nipap.postgres.database import Database

DOCS = '/api/docs'
ALIASES = ('/api', '/api/', '/api/v1', '/api/v1/', '/api/docs/')  # paths that people try
FRESH_S = 5.0
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
WELL = 'The daemon and its database answer.'
HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>nipapd</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem; }}
code {{ background: #8882; padding: .1em .3em; }}
</style>
</head>
<body>
<h1>nipapd {version}</h1>
<p>This is an IP address management daemon. {health}</p>
<h2>Next steps</h2>
<ul>
<li><a href="{docs}">Browse and try the REST API</a>; its description is at
<a href="/api/v1/openapi.json">/api/v1/openapi.json</a>.</li>
<li>Log in as <code>admin</code>, with the password that the first start showed at its terminal, or wrote into the file
<code>first-password</code> of the data directory. Change the password with
<code>nipap-passwd modify -u admin</code>, and add users with <code>nipap-passwd add -u NAME</code>.</li>
<li>Call it from Python: <code>pip install pynipap</code>, or any XML-RPC client, at <code>/XMLRPC</code>.</li>
<li>Import existing data: <code>nipap import FILE.csv</code>.</li>
<li>Watch it: <code>/ready</code> and <code>/metrics</code> are on the admin port, which is printed at the start.</li>
</ul>
</body>
</html>
"""


def add_to(app: Flask, health: Callable[[], str]) -> None:
    """Add the page to an application. health: returns the problem as the end of a sentence, or an empty text."""

    def page() -> Response:
        problem = health()
        text = f'The daemon answers, but {escape(problem)}.' if problem else WELL
        response = Response(HTML.format(version=__version__, health=text, docs=DOCS))
        response.headers['Content-Security-Policy'] = POLICY
        response.headers['Referrer-Policy'] = 'no-referrer'
        return response

    def docs() -> Response:
        return Response(f'The REST API is described at {DOCS}.\n', 302, {'Location': DOCS}, content_type='text/plain')

    app.add_url_rule('/', 'front', page, methods=['GET'])
    for path in ALIASES:
        app.add_url_rule(path, f'front {path}', docs, methods=['GET'], strict_slashes=True)


class Health:
    """The health of the database. It is checked at most every `FRESH_S` seconds, however often the page is opened."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due = 0.0
        self._problem = ''

    def __call__(self) -> str:
        """Return the problem as the end of a sentence, or an empty text."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + FRESH_S
            self._problem = self._ask()
        return self._problem

    def _ask(self) -> str:
        try:
            self._database.read(lambda tx: tx.value('SELECT 1'))
        except NipapError:
            return 'its database does not'
        return ''
