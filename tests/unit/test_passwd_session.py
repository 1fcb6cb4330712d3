"""Replay the recorded session of the former nipap-passwd: scripts see the same results."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from nipap import __version__
from nipapd import passwd

RECORDED = Path(__file__).parents[1] / 'data/passwd-session.txt'


class Step(NamedTuple):
    """A command line and its results."""

    number: int
    command: str
    output: str
    code: int


class Different(NamedTuple):
    """The present result of a command line that differs, and the reason."""

    code: int
    says: str
    why: str


# The key is the number of the step.
DIFFERENT = {
    3: Different(5, 'no such file', 'a traceback; only its exit status not being 0 means something'),
    14: Different(
        0, "user 'readonly' exists already in database DIR/local_auth.db, nothing was changed", 'a text of SQLite'
    ),
    16: Different(0, 'Added user noname to database', 'a name is not needed'),
    33: Different(4, "no user 'nobody'", 'nothing was changed, and nothing said so'),
    36: Different(0, 'User cli is not in database DIR/local_auth.db, nothing was changed', 'it was removed before'),
    39: Different(2, "must not contain ':'", 'no such user could log in: HTTP Basic splits there'),
}
SHORT = re.compile('nipap-passwd: the password has fewer than 8 characters and is soon guessed\n')
HELP = ('$ nipap-passwd', '$ nipap-passwd -h')


def steps() -> list[Step]:
    found = re.findall(r'^\$ (nipap-passwd.*)\n((?:.*\n)*?)\[rc (\d+)\]$', RECORDED.read_text(), re.MULTILINE)
    return [Step(number, command, output, int(code)) for number, (command, output, code) in enumerate(found, 1)]


def test_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv('COLUMNS', '80')
    conf = tmp_path / 'nipap.conf'
    conf.write_text(f'[auth.backends.local]\ntype = SqliteAuth\ndb_path = {tmp_path}/local_auth.db\n')

    def play(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'stdin', io.StringIO())
        words = shlex.split(command.replace('DIR', str(tmp_path)))[1:]
        try:
            code = passwd.main([*words, '-c', str(conf)])
        except SystemExit as end:
            code = int(str(end.code))
        said, complained = capsys.readouterr()
        complained = SHORT.sub('', complained)
        return code, said.replace(str(tmp_path), 'DIR'), complained.replace(str(tmp_path), 'DIR')

    played = steps()
    assert len(played) == 44
    for step in played:
        code, said, complained = play(step.command)
        seen = f'{step}\n{code}\n{said}{complained}'
        if different := DIFFERENT.get(step.number):
            assert (code, different.says in said + complained) == (different.code, True), seen
        elif f'$ {step.command}' in HELP:
            known = set(re.findall(r'(?<![\w-])--?\w[\w-]*', step.output))
            assert known <= set(re.findall(r'(?<![\w-])--?\w[\w-]*', said)), seen
            assert code == 0
        elif '--version' in step.command:
            assert (code, said) == (0, f'nipap-passwd version {__version__}\n')
        elif 'usage:' in step.output:
            assert (code, said, 'usage: nipap-passwd' in complained) == (2, '', True), seen
        elif step.code == 0:
            expected = ''.join(line for line in step.output.splitlines(True) if 'with:colon' not in line)
            assert (code, said, complained) == (0, expected, ''), seen
        else:
            assert (code, step.output.strip() in said + complained) == (step.code, True), seen
        if step.number == 16:
            assert play('nipap-passwd delete -u noname')[0] == 0
