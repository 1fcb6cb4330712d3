"""`nipap import` up to the daemon: what files say, which daemon is meant, and what happens when nobody answers."""

from __future__ import annotations

import argparse
import io
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipap.addresses import parse_network
from nipap.cli import main as cli
from nipap.cli import sheet
from nipap.cli.importer import Progress, State
from nipap.client import Client, Fault, Server, TransportError
from nipap.xmlrpc import codec as wire

HEADER = 'prefix,type,description,tags,avps.site,vlan'


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own configuration."""
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in cli.KEYS.values():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., sheet.Sheet]:
    def read(text: str | bytes, default_type: str | None = None, **vrf: str) -> sheet.Sheet:
        path = tmp_path / 'prefixes.csv'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return sheet.read(path, vrf, default_type)

    return read


Read = Callable[..., sheet.Sheet]

# ---- files


def test_cells_become_attributes(read: Read) -> None:
    found = read(f'{HEADER}\n 10.0.0.0/24 ,assignment,"a, b\nc","x y,z",lab,7\n10.0.1.0/24,host,,,,\n')
    assert found.bad == []
    full, bare = map(found.columns.attr, found.rows)
    assert full == {
        'prefix': '10.0.0.0/24',
        'type': 'assignment',
        'description': 'a, b\nc',
        'tags': ['x', 'y', 'z'],
        'avps': {'site': 'lab'},
        'vlan': '7',
    }
    assert bare == {'prefix': '10.0.1.0/24', 'type': 'host', 'description': None}


def test_parents_come_first(read: Read) -> None:
    order = ['10.0.0.0/8', '10.0.0.0/16', '10.0.0.0', '10.1.0.0/16', '::/0', '2001:db8::/32', '2001:DB8:0:0::/64']
    found = read('prefix,description\n' + ''.join(f'{prefix},\n' for prefix in reversed(order)), 'reservation')
    assert [row.cells[0] for row in found.rows] == order
    assert [row.family for row in found.rows] == [4, 4, 4, 4, 6, 6, 6]


def test_what_rows_do_not_say(read: Read) -> None:
    found = read('prefix,type,node,vrf_rt\n1.0.0.0/8,,,\n1.0.0.0/8,host,n,1:2\n', 'assignment', vrf_name='lab')
    assert found.bad == []
    assert [found.columns.attr(row) for row in found.rows] == [
        {'vrf_name': 'lab', 'prefix': '1.0.0.0/8', 'type': 'assignment'},
        {'prefix': '1.0.0.0/8', 'type': 'host', 'node': 'n', 'vrf_rt': '1:2'},
    ]


def test_every_bad_line_is_named(read: Read) -> None:
    lines = (
        '10.0.0.0/24,assignment,,,,',
        '10.0.0.1/24,assignment,,,,',
        '',
        'nonsense,assignment,,,,',
        ',assignment,,,,',
        '10.0.1.0/24,,,,,',
        '10.0.2.0/24,other,,,,',
        '10.0.3.0/24,assignment,,,,4096',
        '10.0.4.0/24,assignment',
        '"10.0.5.0"/24,assignment,,,,',
        '10.0.6.0/24,assignment,a\x01b,,,',
        '010.0.7.0/24,assignment,,,,',
        '10.0.0.0/24,assignment,again,,,',
    )
    found = read('\r\n'.join((HEADER, *lines)))
    assert len(found.rows) == 1
    reasons = dict(found.bad)
    assert list(reasons) == [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    expected = {
        3: 'bits set to right of mask',
        5: 'Invalid syntax for prefix (nonsense)',
        6: 'no prefix',
        7: 'no type',
        8: "Invalid value 'other' for type",
        9: "Invalid value '4096' for vlan",
        10: '2 cells, the header has 6',
        11: 'expected after',
        12: 'U+0001',
        13: 'Invalid syntax',
        14: '10.0.0.0/24 is in line 2 already',
    }
    assert {line: text for line, text in expected.items() if text not in reasons[line]} == {}


@pytest.mark.parametrize(
    ('text', 'complaint'),
    [
        ('', 'no column prefix'),
        ('type,description\n', 'no column prefix'),
        ('prefix,type\n', 'neither a column description nor a column node'),
        ('prefix,description\n', 'no column type, and no --type'),
        ('prefix,type,description,prefix\n', 'the column prefix is there twice'),
        ('prefix,type,description,colour\n', "the column 'colour' is no attribute"),
        ('prefix,type,description,indent\n', "the column 'indent' is no attribute"),
        ('prefix,type,description,avps.\n', "the column 'avps.' is no attribute"),
        ('"prefix,type', 'unexpected end of data'),
        (b'prefix,type,description\n1.0.0.0/8,host,\xe5\n', 'not in UTF-8'),
    ],
)
def test_files_that_make_no_sense(read: Read, text: str, complaint: str) -> None:
    with pytest.raises(sheet.FileError, match=r'prefixes\.csv: ') as refused:
        read(text)
    assert complaint in str(refused.value)


def test_a_byte_order_mark_is_no_part_of_a_name(read: Read) -> None:
    assert len(read(b'\xef\xbb\xbfprefix,type,node\n1.1.1.1,host,n\n').rows) == 1


networks = st.ip_addresses().flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(lambda length: f'{address}/{length}')
)
spelled = st.text('0123456789abcf:./ ', max_size=20) | networks


@given(text=spelled)
def test_the_quick_reader_agrees_with_the_daemon(text: str) -> None:
    quick = sheet._quick_key(text.strip())
    if quick is not None:
        assert quick == sheet._packed_key(parse_network(text).text)


# ---- the codec


@given(
    st.dictionaries(
        st.sampled_from(['a', 'b&', 'used_addresses']), st.text() | st.none() | st.integers() | st.lists(st.text())
    )
)
def test_structs_written_apart_read_alike(members: dict[str, object]) -> None:
    whole = {'rows': [members, members]}
    apart = {'rows': [wire.encode_struct(members), wire.encode_value(members)]}
    strings = {
        name: str(item) if name == 'used_addresses' and type(item) is int else item for name, item in members.items()
    }
    if strings == members:
        assert wire.encode_request('batch', apart) == wire.encode_request('batch', whole)
    method, (value,) = wire.decode_request(wire.encode_request('batch & more', apart))
    assert method == 'batch & more'
    assert len(value['rows']) == 2  # type: ignore[index]  # decoded values are objects


# ---- which daemon


def options(**given: str | None) -> argparse.Namespace:
    return argparse.Namespace(**{'host': None, 'port': None, 'user': None, **given})


RC = '[global]\nhostname = ipam.example.net\nport = 1338\nusername = ann\npassword = 50%;x\ndefault_vrf_rt = 1:2\n'


@pytest.fixture
def rc(tmp_path: Path) -> Path:
    path = tmp_path / '.nipaprc'
    path.write_text(RC)
    return path


def test_the_file_of_the_operator(rc: Path) -> None:
    assert cli.server_of(options(), {}, rc) == Server('ipam.example.net', 1338, 'ann', '50%;x')


def test_the_environment_wins_and_the_command_line_over_it(rc: Path) -> None:
    environ = {'NIPAP_HOST': '::1', 'NIPAP_PORT': '1', 'NIPAP_USERNAME': 'bob', 'NIPAP_PASSWORD': 'secret'}
    assert cli.server_of(options(), environ, rc) == Server('::1', 1, 'bob', 'secret')
    made = cli.server_of(options(host='https://example.net', port='2', user='eve'), environ, rc)
    assert made == Server('example.net', 2, 'eve', 'secret', tls=True)


def test_a_password_is_sent_for_nobody_else(rc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('sys.stdin', open(rc))  # noqa: SIM115 (closed with the test)
    with pytest.raises(cli.ConfigError, match='no password for bob'):
        cli.server_of(options(user='bob'), {}, rc)
    cli.sys.stdin.close()


def test_no_secret_is_shown(rc: Path) -> None:
    assert '50' not in repr(cli.server_of(options(), {}, rc))


@pytest.mark.parametrize(
    ('text', 'complaint'),
    [
        ('', 'no username'),
        ('[global]\nusername=a\npassword=b\nport=x\n', "port 'x'"),
        ('[global]\nusername=a\npassword=b\nport=65536\n', 'port'),
        ('[global]\nusername=a\npassword=b\nhostname=ftp://x\n', 'hostname'),
        ('username=a\n', 'no section headers'),
    ],
)
def test_configurations_that_cannot_be_used(rc: Path, text: str, complaint: str) -> None:
    rc.write_text(text)
    with pytest.raises(cli.ConfigError, match=complaint):
        cli.server_of(options(), {}, rc)


# ---- how far


def test_the_note_of_another_import_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / 'note'
    state = State.load(path, 'this', 10)
    state.done, state.counts = 4, {'added': 3, 'there': 0, 'refused': 1}
    state.save()
    assert State.load(path, 'this', 10) == state
    assert State.load(path, 'that', 10).done == 0


def test_texts_that_no_index_can_hold_and_dates_that_are_none_are_named(read: Read) -> None:
    """An import that is refused by the daemon in the middle would begin again, and never end."""
    long = 'x' * 601
    lines = (
        f'10.0.0.0/24,assignment,{long},"a, {"y" * 500}","2031-12-31T12:00:00 GMT",se',
        f'10.0.1.0/24,assignment,,"a, {long}",,',
        '10.0.2.0/24,assignment,,,tomorrow-ish,',
        '10.0.3.0/24,assignment,,,01.02.2030,',
        '10.0.4.0/24,assignment,,,45658,',
        '10.0.5.0/24,assignment,,,,sweden',
    )
    found = read('\n'.join(('prefix,type,description,tags,expires,country', *lines)))
    reasons = dict(found.bad)
    assert [row.line for row in found.rows] == [2]
    words = {
        3: '601 characters',
        4: 'Invalid date',
        5: 'write 2030-02-01 or 2030-01-02',
        6: 'Invalid date',
        7: 'two letter',
    }
    assert {line: text for line, text in words.items() if text not in reasons[line]} == {}
    found = read(f'prefix,type,external_key,description\n10.0.0.0/24,assignment,{long},\n')
    assert '601 characters' in dict(found.bad)[2]


@pytest.mark.parametrize('text', ['precious', '[]', '{"of": "this"}', '{"of": "this", "done": "x", "counts": {}}'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'note'
    path.write_text(text)
    with pytest.raises(sheet.FileError, match='not written by an import'):
        State.load(path, 'this', 10)
    assert path.read_text() == text


# ---- nobody answers


@pytest.fixture
def server() -> Iterator[Callable[[bytes], int]]:
    """Makes a server that gives one answer, whatever is asked, and hangs up; returns its port."""
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def make(answer: bytes) -> int:
        listener = socket.create_server(('127.0.0.1', 0))
        listener.settimeout(20)
        listeners.append(listener)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                request = b''
                while b'</methodCall>' not in request:
                    request += connection.recv(65536)
                connection.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield make
    for thread in threads:
        thread.join()
    for listener in listeners:
        listener.close()


def http(body: bytes, status: str = '200 OK') -> bytes:
    return f'HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n'.encode() + body


def ask(port: int) -> object:
    with Client(Server('127.0.0.1', port, 'ann', 'secret'), 'test') as client:
        return client.call('echo', {'message': 1})


@pytest.mark.parametrize('value', [[1, -2, 3], [], [1, '4294967296'], 'text', None, {'a': [1]}])
def test_answers_are_read(server: Callable[[bytes], int], value: object) -> None:
    assert ask(server(http(wire.encode_response(value)))) == value


def test_faults_are_raised(server: Callable[[bytes], int]) -> None:
    with pytest.raises(Fault) as refused:
        ask(server(http(wire.encode_fault(1300, 'there is <none>'))))
    assert (refused.value.code, refused.value.text) == (1300, 'there is <none>')


@pytest.mark.parametrize(
    'answer',
    [b'', b'SSH-2.0\r\n', http(b'', '502 Bad Gateway'), http(b'<html>'), http(b''), http(b'<a/>')[:-2]],
)
def test_what_is_no_answer(server: Callable[[bytes], int], answer: bytes) -> None:
    port = server(answer)
    with pytest.raises(TransportError, match=f'127.0.0.1:{port}: '):
        ask(port)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `nipap import` of a file with one good line, against a port."""
    file = tmp_path / 'one.csv'
    file.write_text('prefix,type,description\n10.0.0.0/8,reservation,x\n')
    monkeypatch.setenv('NIPAP_USERNAME', 'ann')
    monkeypatch.setenv('NIPAP_PASSWORD', 'secret')
    return lambda port, *more: cli.main(['import', str(file), '--port', str(port), *more])


def test_exit_codes(
    server: Callable[[bytes], int], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(('127.0.0.1', 0)) as unused:
        port = unused.getsockname()[1]
    assert command(port) == cli.EXIT_LOST
    assert command(server(http(wire.encode_fault(1000, 'Internal error')))) == cli.EXIT_LOST
    assert command(server(http(wire.encode_fault(1510, 'wrong password')))) == cli.EXIT_USAGE
    assert command(server(http(wire.encode_response([[]])))) == cli.EXIT_USAGE
    assert command(1, '--host', 'ftp://x') == cli.EXIT_USAGE
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(': ')[0] for line in lines] == ['nipap'] * 5
    assert lines[3] == 'nipap: there is no VRF with id 0 (line 2)'


# ---- how far it is


class Screen(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_that_is_written_over() -> None:
    screen = Screen()
    progress = Progress(200, 100, screen)
    for done in (105, 120, 200):
        progress.show(done)
    progress.note('200 prefixes added')
    *shown, last = screen.getvalue().split('\r')[1:]
    bars = [re.fullmatch(r'\[([#.]{20})\] (\d+)/200 rows, \d+ rows/s, \d+:\d\d left\x1b\[K', line) for line in shown]
    assert [(found[1], found[2]) for found in bars if found] == [
        ('#' * 10 + '.' * 10, '105'),
        ('#' * 12 + '.' * 8, '120'),
        ('#' * 20, '200'),
    ]
    assert last == '200 prefixes added\x1b[K\n'


def test_a_file_gets_a_line_each_tenth() -> None:
    file = io.StringIO()
    progress = Progress(1000, 150, file)
    for done in range(150, 1001, 10):
        progress.show(done)
    progress.note('1000 prefixes added')
    *shown, last = file.getvalue().splitlines()
    lines = [re.fullmatch(r'(\d+)/1000 rows, \d+ rows/s, \d+:\d\d left', line) for line in shown]
    assert [found and int(found[1]) for found in lines] == list(range(200, 1001, 100))
    assert last == '1000 prefixes added'


def test_the_rate_is_that_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before it went on does not count."""
    clock = iter((100.0, 110.0))
    monkeypatch.setattr('time.monotonic', lambda: next(clock))
    file = io.StringIO()
    Progress(1000, 400, file).show(500)
    assert file.getvalue() == '500/1000 rows, 10 rows/s, 0:50 left\n'
