"""`nipap import` up to the daemon: the content of files, the choice of the daemon, and errors of a server."""

from __future__ import annotations

import argparse
import io
import ipaddress
import os
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipap.addresses import parse_network
from nipap.cli import importer, sheet
from nipap.cli import main as cli
from nipap.cli.comparison import differences
from nipap.cli.importer import Progress, State
from nipap.cli.records import FileError
from nipap.client import Client, Fault, Server, TransportError
from nipap.moments import read_moment
from nipap.xmlrpc import codec as wire

HEADER = 'prefix,type,description,tags,avps.site,vlan'


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the configuration of the developer."""
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
    found = read('prefix,type,node,vrf_rt\n1.0.0.0/8,,m,\n1.0.0.0/8,host,n,1:2\n', 'assignment', vrf_name='lab')
    assert found.bad == []
    assert [found.columns.attr(row) for row in found.rows] == [
        {'vrf_name': 'lab', 'prefix': '1.0.0.0/8', 'type': 'assignment', 'node': 'm'},
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
    with pytest.raises(FileError, match=r'prefixes\.csv: ') as refused:
        read(text)
    assert complaint in str(refused.value)


TABLE = 'prefix,type,description\n10.0.0.0/8,reservation,"ö, é"\n10.0.0.0/24,assignment,x\n'


@pytest.mark.parametrize(
    'written',
    [
        *(TABLE.encode(encoding) for encoding in ('utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32')),
        *(TABLE.replace(',', sign).replace(f'ö{sign}', 'ö,').encode() for sign in ';\t|'),
        b'\xef\xbb\xbfsep=;\r\n' + TABLE.replace(',', ';').replace('ö;', 'ö,').encode(),
        b'"sep=:"\n' + TABLE.replace(',', ':').replace('ö:', 'ö,').encode(),
        b'sep=\t\n' + TABLE.replace(',', '\t').replace('ö\t', 'ö,').encode(),
        TABLE.replace(',', '\t').replace('ö\t', 'ö,').replace('\n', '\r\n').encode('utf-16'),
        TABLE.replace('\n', '\r').encode(),
        b'\n  \n\n' + TABLE.replace('\n', '\n,,\n\n , ,\n').encode(),
        TABLE.replace('\n', ',,\n').encode(),
        TABLE.replace('x\n', 'x,,,\n,,,,\n').encode(),
    ],
)
def test_files_of_other_programs_are_read(read: Read, written: bytes) -> None:
    """Read encodings and separators with or without a mark of them, and blank rows, cells and columns."""
    found = read(written)
    assert found.bad == []
    assert [found.columns.attr(row) for row in found.rows] == [
        {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'ö, é'},
        {'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'x'},
    ]


def test_the_encoding_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / 'prefixes.csv'
    path.write_bytes('prefix;type;description\n10.0.0.0/8;reservation;Göteborg €\n'.encode('cp1252'))
    with pytest.raises(
        FileError, match=r'prefixes\.csv: not in UTF-8 \(line 2 has the byte 0xF6\): .*--encoding cp1252'
    ):
        sheet.read(path, {}, None)
    found = sheet.read(path, {}, None, 'cp1252')
    assert [row.cells[2] for row in found.rows] == ['Göteborg €']
    assert found.digest != sheet.read(path, {}, None, 'latin-1').digest


@pytest.mark.parametrize('name', ['utf8x', 'hex', '', 'a\0b'])
def test_an_encoding_is_the_name_of_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(['import', 'x.csv', '--encoding', name])
    assert (ended.value.code, 'such as utf-8, utf-16 or cp1252' in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize('start', [b'PK\x03\x04\x14\0', b'\xd0\xcf\x11\xe0\xa1\xb1'])
def test_a_workbook_is_no_csv(read: Read, start: bytes) -> None:
    with pytest.raises(FileError, match='save the sheet as CSV'):
        read(start + bytes(100))


def test_a_pipe_is_read_once() -> None:
    taken, given = os.pipe()
    with os.fdopen(taken, 'rb'):
        with os.fdopen(given, 'wb') as writer:
            writer.write(TABLE.encode())
        found = sheet.read(Path(f'/dev/fd/{taken}'), {}, None)
    assert [row.cells[0] for row in found.rows] == ['10.0.0.0/8', '10.0.0.0/24']


def test_notes_are_beside_a_file_and_not_beside_a_pipe(tmp_path: Path) -> None:
    file = tmp_path / 'x.csv'
    file.write_text(TABLE)
    parser = cli._parser()
    assert cli._job(parser.parse_args(['import', str(file)])).state == tmp_path / 'x.csv.progress'
    for name in ('-', '/dev/stdin', '/dev/fd/0'):
        job = cli._job(parser.parse_args(['import', name]))
        assert (job.state, job.file) == (None, Path(name if name != '-' else '/dev/stdin'))
    assert cli._job(parser.parse_args(['import', '-', '--state', 'note'])).state == Path('note')


def test_a_text_below_a_column_without_a_name_is_a_fault(read: Read) -> None:
    found = read('prefix,type,description,,\n10.0.0.0/8,host,a,,\n10.1.0.0/16,host,b,,lost\n10.2.0.0/16,host,c\n')
    assert found.bad == [(3, "'lost' is in a column without a name"), (4, '3 cells, the header has 5')]


ROWS = [f'10.0.{number}.0/24,assignment,row {number}' for number in range(8)]


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        ({2: '10.0.2.0/24,assignment,"19 rack'}, {4: 'goes on to line 9: unexpected end of data'}),
        ({2: '10.0.2.0/24,assignment,"19 rack', 5: '10.0.5.0/24,assignment,"ok"'}, {4: 'goes on to line 7: '}),
        ({2: '10.0.2.0/24,assignment,"19 rack', 5: '10.0.5.0/24,assignment,rack 19"'}, {4: 'line 5 looks like a row'}),
        ({2: '"10.0.2.0/24,assignment,x', 5: '10.0.5.0/24,"assignment",x'}, {4: 'goes on to line 7: '}),
        ({2: '10.0.2.0/24,"assignment,x', 4: '10.0.4.0/24,assignment,x"'}, {4: 'goes on to line 6: 2 cells'}),
        ({0: '"', 7: '"'}, {2: 'goes on to line 9: 1 cells', 9: 'unexpected end of data'}),
        ({7: '10.0.7.0/24,assignment,"'}, {9: 'unexpected end of data'}),
    ],
)
def test_a_stray_quote_loses_no_row_unnamed(read: Read, changes: dict[int, str], named: dict[int, str]) -> None:
    lines = [changes.get(number, line) for number, line in enumerate(ROWS)]
    found = read('\n'.join(['prefix,type,description', *lines]))
    assert {row.line for row in found.rows} | set(dict(found.bad)) == set(range(2, 10))
    reasons = dict(found.bad)
    assert set(reasons) == set(named)
    assert {line: text for line, text in named.items() if text not in reasons[line]} == {}


def test_a_quote_that_never_ends_is_given_up_after_a_while(read: Read) -> None:
    """Otherwise each stray quote would cost the reading of the whole file."""
    lines = [f'10.{number >> 8}.{number & 255}.0/24,assignment,text' for number in range(20_000)]
    lines[5] = lines[5].replace('text', '"text')
    found = read('\n'.join(['prefix,type,description', *lines]))
    assert ([line for line, _ in found.bad], len(found.rows)) == ([7], 19_999)
    assert 'field larger than field limit' in found.bad[0][1]


@given(
    lines=st.lists(
        st.sampled_from(
            [*ROWS[:4], '10.1.0.0/24,assignment,"a\nb"', '"', '10.2.0.0/24,"x', 'x",y,"', '', ',,', 'a"b"']
        ),
        max_size=12,
    )
)
def test_a_line_that_is_a_row_is_stored_or_named(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / 'lines.csv'
    text = '\n'.join(['prefix,type,description', *lines])
    path.write_text(text)
    found = sheet.read(path, {}, None)
    seen = {row.line for row in found.rows} | set(dict(found.bad))
    assert {number for number, line in enumerate(text.split('\n'), 1) if line in ROWS} <= seen


@pytest.mark.parametrize('text', ['a\nb, c\nd', '10.9.0.0/24 was here\n10.8.0.0/24, and here', '\n"quoted"\n'])
def test_texts_may_have_several_lines(read: Read, text: str) -> None:
    quoted = text.replace('"', '""')
    found = read(f'prefix,type,description,node\n10.0.0.0/8,reservation,"{quoted}",n\n10.0.0.0/24,assignment,x,n\n')
    assert (found.bad, [row.cells[2] for row in found.rows]) == ([], [text.strip(), 'x'])
    assert [row.line for row in found.rows] == [2, 3 + text.count('\n')]


def test_all_faults_of_a_line_are_named(read: Read) -> None:
    header = 'prefix,type,vlan,country,expires,tags,node,comment,monitor,vrf_id,avps.k'
    long = 'x' * 601
    found = read(
        '\n'.join(
            (
                header,
                f'10.0.0.1/8,other,4096,Sweden,45658,{long},,a\x01b,maybe,one,c\x02d',
                '10.0.0.0/8,reservation,,,,,n,,,,',
                '10.0.0.0/8,,x,,,,,,,,',
            )
        )
    )
    assert [row.line for row in found.rows] == [3]
    reasons = {line: text.split('; ') for line, text in found.bad}
    # One reason about the prefix contains a semicolon.
    assert [len(each) for each in reasons.values()] == [12, 4]
    words = ('mask', 'other', '4096', 'country', 'expires', '601', 'neither', 'comment', 'monitor', 'vrf_id', 'avps.k')
    assert [word for word in words if word not in '; '.join(reasons[2])] == []
    words = ('no type', 'vlan', 'neither', '10.0.0.0/8 is in line 3 already')
    assert [word for word in words if word not in '; '.join(reasons[4])] == []


def test_all_faults_of_a_header_are_named(read: Read) -> None:
    with pytest.raises(FileError) as refused:
        read('type,colour,indent,type,vlan\n')
    assert re.findall(r'colour|indent|twice|no column prefix|neither a column', str(refused.value)) == [
        *('twice', 'colour', 'indent'),
        *('no column prefix', 'neither a column'),
    ]


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


# ---- the choice of the daemon


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


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('http://example.net:41310', ('example.net', 41310, False)),
        ('HTTPS://example.net:41310/', ('example.net', 41310, True)),
        ('example.net:41310', ('example.net', 41310, False)),
        ('[2001:db8::1]:41310', ('2001:db8::1', 41310, False)),
        ('http://[::1]:41310', ('::1', 41310, False)),
        ('[::1]', ('::1', 1338, False)),
        ('::1', ('::1', 1338, False)),
        ('fe80::1%eth0', ('fe80::1%eth0', 1338, False)),
        ('192.0.2.1', ('192.0.2.1', 1338, False)),
        ('münchen.example', ('münchen.example', 1338, False)),
    ],
)
def test_the_port_of_a_host_is_used(rc: Path, text: str, expected: tuple[str, int, bool]) -> None:
    made = cli.server_of(options(host=text), {}, rc)
    assert (made.host, made.port, made.tls) == expected
    rc.write_text(RC.replace('ipam.example.net\nport = 1338', text))
    made = cli.server_of(options(), {}, rc)
    assert (made.host, made.port, made.tls) == (expected[0], 1337 if expected[1] == 1338 else expected[1], expected[2])


def test_a_port_wins_over_one_in_a_host_that_counts_less(rc: Path) -> None:
    environ = {'NIPAP_HOST': 'http://h:1'}
    assert cli.server_of(options(port='2'), environ, rc).port == 2
    assert cli.server_of(options(), environ, rc).port == 1
    assert cli.server_of(options(host='g'), environ, rc).port == 1
    assert cli.server_of(options(host='h:3', port='3'), {**environ, 'NIPAP_PORT': '1'}, rc).port == 3
    with pytest.raises(cli.ConfigError, match=r"hostname 'h:3': the command line names another port too, 4"):
        cli.server_of(options(host='h:3', port='4'), environ, rc)
    with pytest.raises(cli.ConfigError, match='the environment names another port too, 2'):
        cli.server_of(options(), {**environ, 'NIPAP_PORT': '2'}, rc)


@pytest.mark.parametrize(
    'text',
    [
        *(
            '',
            'http://',
            'http://ann:secret@h',
            'h/nipap',
            'http://h:80/XMLRPC?x',
            'h:port',
            'h:',
            '[::1',
            'a b',
            'a..b',
        ),
        *('x' * 64, 'http://::1', 'ftp://x', 'h:0', 'h:65536'),
    ],
)
def test_a_host_is_understood_as_a_whole_or_refused(rc: Path, text: str) -> None:
    with pytest.raises(cli.ConfigError, match=r'^(hostname|port) '):
        cli.server_of(options(host=text), {}, rc)
    rc.write_text(RC.replace('ipam.example.net\nport = 1338', text))
    assert cli.server_of(options(host='g', port='1'), {}, rc).host == 'g'


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


# ---- comparison with stored values


@given(st.sampled_from(['tomorrow', 'in 2 days', '17:00', 'at 5 pm', 'eom', 'friday', 'noon', ' Next Week ']))
def test_moments_that_depend_on_now_are_not_compared(text: str) -> None:
    assert differences({'expires': text}, {'expires': datetime(2031, 1, 1)}) == []


@given(st.sampled_from(['never', '2031-01-02', '20310101T00:00:01Z', '1 Jan 2031 17:00', '17:00 on 1 Jan 2031']))
def test_other_moments_are_compared(text: str) -> None:
    (found,) = differences({'expires': text}, {'expires': datetime(2031, 1, 1)})
    assert found.startswith('expires is 2031-01-01 00:00:00, not ')
    assert differences({'expires': text}, {'expires': read_moment(text)}) == []


def test_values_from_before_a_limit_are_shown_as_they_are() -> None:
    assert differences({'vlan': '7'}, {'vlan': 5000}) == ['vlan is 5000, not 7']
    assert differences({'avps': {'a': '1', 'b': '2'}}, {'avps': {'a': '1'}}) == ["avps.b is nil, not '2'"]
    assert differences({'avps': {'o\u0308': 'e\u0301'}}, {'avps': {'\xf6': '\xe9'}}) == []  # one form is stored
    assert differences({'tags': ['a', 'b']}, {'tags': ['b', 'a', 'a']}) == []
    assert differences({'tags': ['a']}, {'tags': []}) == ["tags is nil, not 'a'"]


# ---- notes of progress


def test_the_note_of_another_import_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / 'note'
    state = State.load(path, 'this', 10)
    state.done, state.counts = 4, {'added': 2, 'there': 0, 'different': 1, 'refused': 1}
    state.save()
    assert State.load(path, 'this', 10) == state
    assert State.load(path, 'that', 10).done == 0


def test_texts_that_no_index_can_hold_and_dates_that_are_none_are_named(read: Read) -> None:
    """If the daemon refused an import in the middle, the import would start again and never end."""
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
    with pytest.raises(FileError, match='not written by an import'):
        State.load(path, 'this', 10)
    assert path.read_text() == text


# ---- errors of a server


@pytest.fixture
def server() -> Iterator[Callable[[bytes], int]]:
    """Yield a maker of a server that gives one answer to any request and closes. The maker returns the port."""
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


@pytest.fixture
def answers() -> Iterator[Callable[..., int]]:
    """Yield a maker of a server that gives some answers to calls, in turn. The maker returns the port."""
    threads: list[threading.Thread] = []

    def make(*values: object) -> int:
        waiting = [http(wire.encode_response(value)) for value in values]

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for answer in waiting:
                    headers = b''.join(iter(self.rfile.readline, b'\r\n'))
                    length = re.search(rb'(?i)content-length: ([0-9]+)', headers)
                    assert length
                    self.rfile.read(int(length[1]))
                    self.wfile.write(answer)

        server = socketserver.TCPServer(('127.0.0.1', 0), Handler)

        def serve() -> None:
            with server:
                server.handle_request()

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return int(server.server_address[1])

    yield make
    for thread in threads:
        thread.join()


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
def test_malformed_answers(server: Callable[[bytes], int], answer: bytes) -> None:
    port = server(answer)
    with pytest.raises(TransportError, match=f'127.0.0.1:{port}: '):
        ask(port)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a runner of `nipap import` against a port, for a file with one good line."""
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
    assert lines[3] == 'nipap: there is no VRF with id 0, the VRF for rows without a VRF'


def test_options_before_the_command_hold(
    server: Callable[[bytes], int], command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the daemon that was asked."""
    wrong = http(wire.encode_fault(1510, 'wrong password'))
    for place in range(2):
        port = server(wrong)
        ours = ['--port', str(port), '--host', '127.0.0.1', '--user', 'bob']
        import_it = ['import', str(tmp_path / 'one.csv')]
        assert cli.main(ours + import_it if place == 0 else import_it + ours) == cli.EXIT_USAGE
        assert capsys.readouterr().err == f'nipap: 127.0.0.1:{port}: wrong password (fault 1510)\n'
    later = cli._parser().parse_args(['--port', '1', '--user', 'ann', 'import', 'x', '--port', '2'])
    assert (later.host, later.port, later.user) == (None, '2', 'ann')


@pytest.mark.parametrize('name', ['.', '/', '..', ''])
def test_a_directory_is_no_file(name: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['import', name]) == cli.EXIT_USAGE
    assert capsys.readouterr().err == f'nipap: {Path(name)}: Is a directory\n'


def test_a_dry_run_that_is_carried_out_is_no_success(
    answers: Callable[..., int], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    vrf = {'id': 0, 'name': 'default', 'num_prefixes_v4': '0', 'num_prefixes_v6': '0'}
    port = answers([[vrf]], '1.0.0', [1, 2])
    assert command(port, '--dry-run') == cli.EXIT_LOST
    assert f'nipap: 127.0.0.1:{port}: it committed a batch with an impossible operation' in capsys.readouterr().err


NETWORKS = [
    parse_network(text).text for text in ('0.0.0.0/0', '10.0.0.0/8', '10.0.0.0/9', '10.128.0.0/9', '11.0.0.0/8')
]


@pytest.mark.parametrize('outer', [*NETWORKS, '::/0', '2001:db8::/32', '::a00:0/128'])
@pytest.mark.parametrize('inner', [*NETWORKS, '10.0.0.1/32', '2001:db8:1::/48', '2001:db9::/48'])
def test_covering_networks_are_found_by_keys(outer: str, inner: str) -> None:
    one, other = ipaddress.ip_network(outer), ipaddress.ip_network(inner)
    if sheet._key(outer) < sheet._key(inner):
        expected = one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]
        assert importer._is_around(sheet._key(outer), sheet._key(inner)) == expected


# ---- display of progress


class Screen(io.StringIO):
    """A terminal that keeps its text."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_that_is_written_over() -> None:
    screen = Screen()
    progress = Progress(200, 100, screen)
    for done in (105, 120, 200):
        progress.show(done)
    progress.note('200 prefixes added')
    progress.wipe()
    *shown, last, wiped = screen.getvalue().split('\r')[1:]
    assert wiped == '\x1b[K'
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
    progress.wipe()
    *shown, last = file.getvalue().splitlines()
    lines = [re.fullmatch(r'(\d+)/1000 rows, \d+ rows/s, \d+:\d\d left', line) for line in shown]
    assert [found and int(found[1]) for found in lines] == list(range(200, 1001, 100))
    assert last == '1000 prefixes added'


def test_the_rate_is_that_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows from before the run do not count."""
    clock = iter((100.0, 110.0))
    monkeypatch.setattr('time.monotonic', lambda: next(clock))
    file = io.StringIO()
    Progress(1000, 400, file).show(500)
    assert file.getvalue() == '500/1000 rows, 10 rows/s, 0:50 left\n'
