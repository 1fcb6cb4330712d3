"""Configuration of Sphinx for `make docs`: Markdown by MyST, the theme furo, nothing from the network."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
found = re.search(r"__version__ = '([^']+)'", (ROOT / 'nipap/__init__.py').read_text())
assert found is not None

project, author = 'nipapd', 'the authors of nipapd'
version = release = found[1]
extensions = ['myst_parser']
exclude_patterns = ['man']
myst_heading_anchors = 4
myst_enable_extensions = ['deflist']
html_theme = 'furo'
html_title = f'nipapd {version}'
html_theme_options = {'navigation_with_keys': True}
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_static_path = ['static']
html_css_files = ['site.css']
html_last_updated_fmt = None

# Pages of the site that stand at the top of the repository, where people look for them.
AT_THE_TOP = {'changelog': 'CHANGELOG.md', 'contributing': 'CONTRIBUTING.md'}
_LINK = re.compile(r'\[([^\]]+)\]\(([^)\s]+)\)')


def read(_app: Sphinx, name: str, source: list[str]) -> None:
    """Take pages from the top of the repository, and unlink the names of files that are not part of the site."""
    text = source[0]
    base = Path('docs') / Path(name).parent
    if name in AT_THE_TOP:
        text, base = (ROOT / AT_THE_TOP[name]).read_text(encoding='utf-8'), Path()

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        path, mark, anchor = target.partition('#')
        if '://' in target or not path:
            return match[0]
        place = (ROOT / base / path).resolve().relative_to(ROOT)
        for page, file in AT_THE_TOP.items():
            if str(place) == file:
                place = Path('docs', f'{page}.md')
        if place.parts[0] != 'docs':
            return words if words.startswith('`') else f'`{words}`'
        up = '../' * (len(Path(name).parts) - 1)
        return f'[{words}]({up}{place.relative_to("docs")}{mark}{anchor})'

    source[0] = _LINK.sub(link, text)


def setup(app: Sphinx) -> None:
    """Register the reader of pages."""
    app.connect('source-read', read)
