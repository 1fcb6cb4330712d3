"""The first page: the start for a newcomer who opens the address that the daemon prints."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from http.client import HTTPResponse
from typing import Any

import pytest
from daemon_process import Daemon
from flask import Flask
from talking import Configured

from nipap import __version__
from nipap.postgres.database import Database
from nipap.www import front


class Unredirected(urllib.request.HTTPRedirectHandler):
    """Returns redirections instead of following them."""

    def redirect_request(self, *_: Any) -> None:
        return None


def get(daemon: Daemon, path: str, *, method: str = 'GET', follow: bool = True) -> tuple[int, str, HTTPResponse]:
    opener = urllib.request.build_opener() if follow else urllib.request.build_opener(Unredirected)
    try:
        answer = opener.open(urllib.request.Request(f'{daemon.address}{path}', method=method), timeout=60)
    except urllib.error.HTTPError as refusal:
        answer = refusal
    with answer:
        return answer.status, answer.read().decode(), answer


def test_the_address_opens_on_a_page_that_leads_on(configured: Configured) -> None:
    running = configured(forks='1')
    status, text, answer = get(running, '/')
    assert (status, answer.headers.get_content_type()) == (200, 'text/html')
    assert f'<h1>nipapd {__version__}</h1>' in text
    assert front.WELL in text
    assert 'nipap-passwd modify -u admin' in text
    links = re.findall(r'href="([^"]+)"', text)
    assert '/api/docs' in links
    for link in links:
        assert link.startswith('/')
        assert get(running, link)[0] == 200, link
    assert not re.search(r'src=|<script|https?://', text)  # nothing of another host, no scripts
    assert "default-src 'none'" in answer.headers['Content-Security-Policy']
    assert (answer.headers['Cache-Control'], answer.headers['X-Content-Type-Options']) == ('no-store', 'nosniff')
    assert get(running, '/', method='HEAD')[:2] == (200, '')
    assert get(running, '/', method='POST')[0] == 405
    for path in ('/api', '/api/', '/api/v1', '/api/v1/', '/api/docs/'):
        status, text, answer = get(running, path, follow=False)
        assert (status, answer.headers['Location']) == (302, '/api/docs'), path
        assert '/api/docs' in text
        assert 'swagger-ui' in get(running, path)[1]
    for path in ('/nowhere', '/api/nowhere', '/api/v2', '/api/docs/nowhere'):
        assert get(running, path)[0] == 404, path


def test_a_problem_is_shown_as_text() -> None:
    app = Flask('test')
    front.add_to(app, lambda: 'the <database> is away')
    answer = app.test_client().get('/')
    assert answer.status_code == 200
    assert 'The daemon answers, but the &lt;database&gt; is away.' in answer.text
    assert front.WELL not in answer.text


def test_the_database_is_not_asked_for_every_visitor(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(dsn)
    health = front.Health(database)
    read, asked = Database.read, []
    monkeypatch.setattr(Database, 'read', lambda self, work: asked.append(1) or read(self, work))
    assert [health() for _ in range(50)] == [''] * 50
    assert len(asked) == 1
    database.close()


def test_a_database_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('nipap.postgres.database.PATIENCE_S', 0.0)
    monkeypatch.setattr('nipap.postgres.database.LATER_PATIENCE_S', 0.0)
    assert front.Health(Database('host=/nowhere'))() == 'its database does not'
