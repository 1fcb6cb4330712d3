"""The documentation is true: its commands, options, files, codes and modules exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from language import FREE_RELATIVE
from test_layering import MODULES_IN_ORDER, ROOT

from nipap import __version__
from nipap.cli import main as cli
from nipapd import __main__, maintenance, passwd

README = ROOT / 'README.md'
DOCUMENTS = sorted(
    [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('docs/man/*'), *ROOT.glob('examples/*.md')]
)
PROGRAMS: dict[str, tuple[Callable[[list[str]], int], Path]] = {
    'nipapd': (__main__.main, ROOT / 'docs/man/nipapd.8'),
    'nipap-passwd': (passwd.main, ROOT / 'docs/man/nipap-passwd.1'),
    'nipap-admin': (maintenance.main, ROOT / 'docs/man/nipap-admin.1'),
    'nipap': (lambda argv: cli.main(['import', *argv]), ROOT / 'docs/man/nipap.1'),
}
# Commands whose options are not in the help of their program.
COMMANDS = {'nipap-admin': (('audit', 'export'), ('audit', 'verify'))}
TOP_LEVEL = {
    '.git-blame-ignore-revs',
    *('nipapd', 'nipap', 'tests', 'sql', 'etc', 'docs', 'examples', 'setup.py', 'pyproject.toml'),
    *('README.md', 'SECURITY.md', 'requirements.lock', 'CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'Makefile'),
    *('.ci', '.gitignore', '.pre-commit-config.yaml'),
}
# Unfinished work, and places that exist on one machine only.
UNFIT = re.compile(r'\b(?:TODO|FIXME|XXX|TBD)\b|(?<![\w.])/(?:work|root|home)/')
PLAIN = [
    *('README.md', 'CONTRIBUTING.md', 'docs/index.md', 'docs/concepts.md', 'docs/glossary.md', 'docs/safety.md'),
    *('docs/xmlrpc.md', 'docs/importing.md', 'docs/users.md', 'docs/configuring.md', 'docs/operating.md'),
    *('docs/backups.md', 'docs/performance.md', 'docs/search-plans.md', 'docs/group-commit.md', 'docs/lost-answers.md'),
    *('docs/sequencer.md', 'docs/long-answers.md', 'docs/architecture.md', 'docs/data.md', 'docs/versions.md'),
    *('docs/processes.md', 'docs/reference/errors.md', 'docs/reference/search.md', 'CHANGELOG.md'),
    *('docs/comparison.md', 'docs/differences.md', 'docs/events.md', 'docs/limits.md', 'docs/measuring.md'),
    *('docs/migrating.md', 'docs/monitoring.md', 'docs/production.md', 'docs/rest.md', 'docs/security.md'),
    *('docs/tracing.md', 'docs/upgrading.md', 'docs/auditing.md', 'docs/time-travel.md', 'SECURITY.md'),
]


def shell_blocks() -> list[str]:
    return re.findall(r'^```sh\n(.*?)\n```$', README.read_text(), re.MULTILINE | re.DOTALL)


def man_text(path: Path) -> str:
    """Return a manual page without the marks that change no word."""
    return re.sub(r'\\f[BIRP]|"', '', path.read_text()).replace('\\-', '-')


def between(start: str, end: str, text: str) -> str:
    """Return the text between the first match of one pattern and the next match of another, line by line."""
    found = re.search(rf'^{start}(.*?)^{end}', text, re.MULTILINE | re.DOTALL)
    assert found, start
    return found[1]


def options_in(text: str) -> set[str]:
    """Return the words that begin with one or two hyphens, as options do."""
    return set(re.findall(r'(?<![\w-])--?[A-Za-z][\w-]*', text))


def help_of(
    program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: Sequence[str] = ()
) -> str:
    """Return the output of --help, without line breaks in paragraphs."""
    monkeypatch.setenv('COLUMNS', '1000')
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program][0]([*command, '--help'])
    assert ended.value.code == 0
    return capsys.readouterr().out


# ---- commands


def test_the_first_two_commands_of_the_readme_are_one_line_each() -> None:
    """`.ci/run` adds options to the first command, and runs the second unchanged."""
    serve, test, *_ = shell_blocks()
    assert re.fullmatch('.* && .venv/bin/nipapd', serve)
    assert re.fullmatch('.* && .venv/bin/pytest( -n [0-9]+)?', test)


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 130, 'move the rest to docs/'


@pytest.mark.parametrize('number', [1, 2])
def test_ci_runs_what_the_readme_prints(number: int) -> None:
    script = (ROOT / '.ci/run').read_text()
    assert f'$(printed {number})' in script
    function = between(r'printed\(\) \{\n', r'\}\n', script)
    command = ['bash', '-c', f'printed() {{\n{function}}}\nprinted {number}']
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == shell_blocks()[number - 1] + '\n'


def test_make_check_and_ci_run_the_same() -> None:
    rules = (ROOT / 'Makefile').read_text()
    checked = {
        command.strip()
        for name in between('check: ', '\n', rules).split()
        for command in between(f'{name}: .*?\n', '\n', rules).splitlines()
    }
    script = (ROOT / '.ci/run').read_text()
    in_ci = {*re.findall(r"^try '(\S+/bin/.*)'$", script, re.MULTILINE), shell_blocks()[1].rpartition(' && ')[2]}
    assert {command.replace('$(BIN)', '.venv/bin') for command in checked} == in_ci


def test_nobody_is_sent_to_an_index_that_does_not_have_this_package() -> None:
    """`pip install 'nipapd[kafka]'` asks a public index."""
    texts = [*DOCUMENTS, *ROOT.glob('etc/*'), *ROOT.glob('nipap*/**/*.py')]
    assert [path for path in texts if re.search(r"install\W+'?nipapd", path.read_text())] == []


def test_hooks_of_git_run_parts_of_make_check_without_the_network() -> None:
    rules = (ROOT / 'Makefile').read_text().replace('$(BIN)', '.venv/bin')
    (repository,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    assert repository['repo'] == 'local'  # hooks of another kind are fetched
    for hook in repository['hooks']:
        assert hook['language'] == 'system'
        assert f'\t{hook["entry"]}\n' in rules


# ---- options, exit codes, names


@pytest.mark.parametrize('program', PROGRAMS)
def test_the_manual_has_every_option_and_no_other(
    program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = man_text(PROGRAMS[program][1])
    helps = [help_of(program, capsys, monkeypatch, command) for command in ((), *COMMANDS.get(program, ()))]
    assert options_in(page) == options_in(' '.join(helps))
    assert page.startswith(f'.TH {program.upper()} ')
    assert f' nipapd {__version__} ' in page.partition('\n')[0]


@pytest.mark.parametrize(
    ('program', 'codes'),
    [
        ('nipapd', {0, 1, 2, 3}),
        ('nipap-passwd', {passwd.EXIT_OK, passwd.EXIT_NO, *passwd.EXIT_CODES.values(), passwd.EXIT_INTERRUPTED}),
        ('nipap-admin', {0, 1, 2}),
        ('nipap', {cli.EXIT_OK, cli.EXIT_REFUSED, cli.EXIT_USAGE, cli.EXIT_LOST, cli.EXIT_DIFFERENT}),
    ],
)
def test_the_manual_has_every_exit_code(program: str, codes: set[int]) -> None:
    section = between(r'\.SH EXIT STATUS\n', r'\.SH ', man_text(PROGRAMS[program][1]))
    assert sorted(map(int, re.findall(r'^\.B (\d+)$', section, re.MULTILINE))) == sorted(codes)


def test_the_manual_has_every_action(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    section = between(r'\.SH ACTIONS\n', r'\.SH ', man_text(PROGRAMS['nipap-passwd'][1]))
    listed = between('  ACTION +', '\n', help_of('nipap-passwd', capsys, monkeypatch))
    assert re.findall(r'^\.TP\n\.B (\S+)$', section, re.MULTILINE) == listed.strip().split(', ')


def test_the_architecture_has_every_module() -> None:
    text = (ROOT / 'docs/architecture.md').read_text().partition('| room | modules |')[2].partition('\n\n')[0]
    found: list[str] = []
    for line in text.splitlines()[2:]:
        _, room, modules, *_ = line.split('|')
        package = re.search(r'`(\w+)/`', room)
        found += [f'{package[1]}.{name}' if package else name for name in re.findall(r'`([\w.]+)`', modules)]
    assert sorted(found) == sorted(MODULES_IN_ORDER)


def test_the_page_about_processes_has_every_module() -> None:
    table = (ROOT / 'docs/processes.md').read_text().partition('## Modules of nipapd/')[2]
    found = re.findall(r'`(\w+)`', ''.join(line.rpartition(' | ')[2] for line in table.splitlines()))
    assert sorted(found) == sorted(path.stem for path in (ROOT / 'nipapd').glob('*.py') if path.stem != '__init__')


def test_the_changelog_has_this_version() -> None:
    assert re.search(rf'^## \[{re.escape(__version__)}\] - ', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)


def test_each_statement_of_the_comparison_has_its_source() -> None:
    """A statement about another system has a dated link, one about nipapd a test or a page."""
    for line in (ROOT / 'docs/comparison.md').read_text().splitlines():
        if not line.startswith('| ') or line.startswith('| system |'):
            continue
        system, _, source = (cell.strip() for cell in line.strip('|').split('|'))
        if system == 'nipapd':
            assert re.search(r'`tests/|\]\([\w/]+\.md\)', source), line
        else:
            assert re.search(r'20\d\d-\d\d', source), line
            assert '](https://' in source or source.startswith('searched '), line


def test_a_line_that_is_left_out_of_coverage_says_why() -> None:
    for path in (*ROOT.glob('nipap/**/*.py'), *ROOT.glob('nipapd/**/*.py')):
        for line in path.read_text().splitlines():
            assert 'pragma: no' not in line or re.search(r'# pragma: no (?:cover|branch) - \w.*', line), (path, line)


# ---- files


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_files_that_are_there(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r'\]\(([^)#]+)[^)]*\)', text) if '://' not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    paths = re.findall(r'`((?:nipap|nipapd|sql|tests|docs|etc|\.ci)/[\w./-]*)`', text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_is_fit_to_read(document: Path) -> None:
    assert UNFIT.findall(document.read_text()) == []


@pytest.mark.parametrize('name', PLAIN)
def test_a_page_in_plain_english_stays_so(name: str) -> None:
    """A noun is easier to read than a free relative: a page has at most 6 of them in 1,000 words."""
    text = re.sub(r'```.*?```|`[^`]*`', '', (ROOT / name).read_text(), flags=re.DOTALL)
    found = [match[0] for match in FREE_RELATIVE.finditer(text)]
    assert len(found) <= 6 * len(text.split()) / 1000, found


@pytest.mark.parametrize('program', PROGRAMS)
def test_a_manual_page_can_be_formatted(program: str) -> None:
    """Each macro belongs to the format, and fonts that are opened by escapes are closed on their line."""
    for line in PROGRAMS[program][1].read_text().splitlines():
        assert re.match(r'\.(?:TH|SH|TP|PP|B|I|BR|IR|nf|fi)\b|[^.\']', line), line
        assert len(re.findall(r'\\f[BI]', line)) == len(re.findall(r'\\fR', line)), line


def test_the_top_level_is_tidy() -> None:
    if not (ROOT / '.git').exists() or shutil.which('git') is None:
        pytest.skip('not a checkout')
    listing = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {path.partition('/')[0] for path in listing.splitlines()} <= TOP_LEVEL
