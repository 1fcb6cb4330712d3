"""Every key that NIPAP documents, with the values of its documentation: each key is used, or a message names it.

The one exception is a back end or section that is not used as a whole. Then the message names the back end or section.

The keys are those of ``nipap.conf.dist`` and of the authentication library of NIPAP (MIT licence,
github.com/SpriteLink/NIPAP), releases 0.19 to 0.32.7.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nipapd.config import Config, ConfigError, load

BASE = {
    'nipapd': '',
    'auth': '',
    'auth.backends.local': 'type = SqliteAuth',
    'auth.backends.ldap1': 'type = LdapAuth',
    'auth.backends.jwt': 'type = JwtAuth',
    'kafka': '',
    'tracing': 'otlp_grpc_endpoint = http://127.0.0.1:4317',
    'www': '',
}
LDAP = '[auth.backends.ldap1] type = LdapAuth: is not supported by this version, logins with it are refused'
JWK = '[auth.backends.jwt] jwk_url: is not supported by this version, logins with it are refused'
WEB = '[www]: this section belongs to the web client of NIPAP'
NOBODY = 'there is no such user'


class Key(NamedTuple):
    """A line of the documentation, and the place of its value: a setting of the configuration, or a message."""

    section: str
    line: str
    found: Callable[[Config], Any] | str
    value: Any = True


def daemon(line: str, value: Any, field: str = '') -> Key:
    """Return a key of [nipapd] that is used under its own name."""
    name = field or line.partition('=')[0].strip()
    return Key('nipapd', line, lambda config: getattr(config.nipapd, name), value)


KEYS = (
    Key('nipapd', 'user = no-such-account', NOBODY),
    Key('nipapd', 'group = no-such-group', 'there is no such group'),
    daemon('user = root', 'root'),
    daemon('group = root', 'root'),
    daemon('user =', None),
    daemon('group =', None),
    daemon('listen = 127.0.0.1              ; IP address to listen on.', ('127.0.0.1',)),
    daemon('listen = 0.0.0.0', ('0.0.0.0',)),
    Key('nipapd', 'listen =', '[nipapd] listen: is empty, which means 127.0.0.1'),
    daemon('port = 1337                     ; XML-RPC listen port (change requires restart)', 1337),
    Key('nipapd', 'ssl_port = 1338', '[nipapd] ssl_cert_file: is needed for ssl_port 1338'),
    daemon('ssl_port =', None),
    daemon('ssl_cert_file = /etc/nipap/cert.pem', '/etc/nipap/cert.pem'),
    daemon('ssl_key_file = /etc/nipap/key.pem', '/etc/nipap/key.pem'),
    daemon("foreground = false              ; run in foreground, won't work with init script", False),
    daemon('debug = false                   ; enable debug logging', False),
    daemon('forks = 0                       ; number of forks', 0),
    daemon('forks = -1', -1),
    Key('nipapd', 'fork = 0                        ; number of forks', '[nipapd] fork: unknown key, ignored'),
    daemon('syslog = true                   ; log to syslog', True),
    daemon('pid_file = /var/run/nipap/nipapd.pid', '/var/run/nipap/nipapd.pid'),
    daemon('pid_file = /var/run/nipapd.pid  ; pid file, default is to not write one', '/var/run/nipapd.pid'),
    daemon('db_host = localhost            ; database hostname', 'localhost'),
    daemon('db_host =', None),
    daemon('db_port = 5432                  ; port that PostgreSQL listens to, defaults to', '5432'),
    daemon('db_port =', None),
    daemon('db_name = nipap                 ; database name', 'nipap'),
    daemon('db_user = nipap                 ; database username', 'nipap'),
    daemon('db_pass = papin                 ; database password', 'papin'),
    daemon('db_pass = pa%%pin', 'pa%pin'),
    daemon('db_sslmode = require            ; database SSL mode', 'require'),
    Key(
        'auth',
        'default_backend = local                ; which backend',
        lambda config: config.auth.default_backend,
        'local',
    ),
    Key('auth', 'default_backend = ldap1', lambda config: config.auth.default_backend, 'ldap1'),
    Key('auth', 'auth_cache_timeout = 3600              ; seconds', lambda config: config.auth.cache_timeout_s, 3600),
    Key('auth.backends.local', '', lambda config: config.auth.backends['local'].type, 'SqliteAuth'),
    Key(
        'auth.backends.local',
        'db_path = /etc/nipap/local_auth.db     ; path to SQLite database used',
        lambda config: config.auth.backends['local'].options['db_path'],
        '/etc/nipap/local_auth.db',
    ),
    *(
        Key('auth.backends.ldap1', line, LDAP)
        for line in (
            '',
            'basedn = dc=test,dc=com                ; base DN',
            'uri = ldaps://ldap.test.com            ; LDAP server URI',
            'tls = true',
            'binddn_fmt = uid={},dc=test,dc=com',
            'binddn_fmt = {}@test.com',
            'search = uid={}                        ; LDAP search filter',
            'search = sAMAccountName={}',
            'search_binddn = cn=nipap,dc=test,dc=com',
            'search_password = secret',
            'rw_group = cn=tech,dc=test,dc=com\t; Users in this group get rw access',
            'ro_group =',
        )
    ),
    Key('auth.backends.jwt', 'jwk_url = https://id.example.net/jwks.json', JWK),
    Key('kafka', 'enabled = false', lambda config: config.kafka.enabled, False),
    Key('kafka', 'brokers = kafka:9092', lambda config: config.kafka.brokers, 'kafka:9092'),
    Key('kafka', 'topic_prefix = nipap.', lambda config: config.kafka.topic_prefix, 'nipap.'),
    Key('kafka', 'security_protocol = PLAINTEXT', lambda config: config.kafka.security_protocol, 'plaintext'),
    Key('kafka', 'security_protocol = SASL_SSL', lambda config: config.kafka.security_protocol, 'sasl_ssl'),
    Key('kafka', 'sasl_mechanism = PLAIN', lambda config: config.kafka.sasl_mechanism, 'PLAIN'),
    Key('kafka', 'sasl_username = nipap', lambda config: config.kafka.sasl_username, 'nipap'),
    Key('kafka', 'sasl_password = secret', lambda config: config.kafka.sasl_password, 'secret'),
    Key('kafka', 'ssl_cafile = /etc/ssl/ca.pem', lambda config: config.kafka.ssl_cafile, '/etc/ssl/ca.pem'),
    Key('tracing', '', lambda config: config.tracing.otlp_grpc_endpoint, 'http://127.0.0.1:4317'),
    Key(
        'tracing',
        'otlp_http_endpoint = http://127.0.0.1:4318/v1/traces',
        lambda config: config.tracing.otlp_http_endpoint,
        'http://127.0.0.1:4318/v1/traces',
    ),
    *(
        Key('tracing', f'otel_traces_sampler = {name}', lambda config: config.tracing.otel_traces_sampler, name)
        for name in (
            *('always_on', 'always_off', 'traceidratio', 'parentbased_always_on', 'parentbased_always_off'),
            'parentbased_traceidratio',
        )
    ),
    Key('www', 'xmlrpc_uri = http://user@local:pass@127.0.0.1:1337', WEB),
    Key('www', 'xmlrpc_uri = http://@:@127.0.0.1:1337', WEB),
    Key('www', 'welcome_message = Welcome to NIPAP at COMPANY. 100% yours.', WEB),
)


@pytest.mark.parametrize('key', KEYS, ids=lambda key: f'[{key.section}] {key.line.partition(";")[0].strip()}')
def test_a_key_of_nipap_is_used_or_named(key: Key, tmp_path: Path) -> None:
    """Load the key alone, with the needs of its section. A used value gives no warning, an ignored key gives one."""
    needed = BASE[key.section] or ''
    path = tmp_path / 'nipap.conf'
    sections = {'auth.backends.ldap1': BASE['auth.backends.ldap1']} if 'ldap1' in key.line else {}
    sections[key.section] = f'{needed}\n{key.line}'
    path.write_text(''.join(f'[{section}]\n{text}\n' for section, text in sections.items()))
    path.chmod(0o600)
    config, said = None, ''
    try:
        config = load(['-c', str(path), '--data-dir', str(tmp_path)], {})
        said = '\n'.join(text for text in config.warnings if key.found == LDAP or LDAP not in text)
    except ConfigError as refusal:
        said = str(refusal)
    if isinstance(key.found, str):
        assert key.found in said
        assert key.found in (LDAP, WEB) or key.line.partition('=')[0].strip() in said
    else:
        assert said == ''
        assert config
        assert key.found(config) == key.value
