"""Small wrong changes of Python and SQL: the replacements that each operator makes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sources import Source


@dataclass(frozen=True)
class Change:
    """Put a replacement in place of the text from start to end."""

    kind: str
    start: int
    end: int
    replacement: str


COMPARISONS = {
    **{'<': '<=', '<=': '<', '>': '>=', '>=': '>', '==': '!=', '!=': '==', 'is': 'is not', 'is not': 'is'},
    **{'in': 'not in', 'not in': 'in'},
}
ARITHMETIC = {'+': '-', '-': '+', '*': '//', '/': '*', '//': '*', '%': '*', '<<': '>>', '>>': '<<', '|': '&', '&': '|'}
LIMITS = {'min': 'max', 'max': 'min', 'any': 'all', 'all': 'any'}
QUIET = re.compile(r'(?:log|logger|logging|warnings)\.')


def changes_of(source: Source) -> list[Change]:
    """Return every change that the operators make of a file, in order."""
    found = _Sql(source).changes() if source.is_sql else _Python(source).changes()
    return sorted(set(found), key=lambda each: (each.start, each.end, each.replacement))


# ---------------------------------------------------------------- Python


class _Python:
    def __init__(self, source: Source) -> None:
        self._source = source

    def changes(self) -> Iterator[Change]:
        for node in self._deciding(ast.parse(self._source.text)):
            method = getattr(self, f'_{type(node).__name__.lower()}', None)
            if method:
                yield from method(node)

    def _deciding(self, node: ast.AST) -> Iterator[ast.AST]:
        """Walk everything but annotations, documentation and imports for type checkers."""
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
            return
        yield node
        for name, value in ast.iter_fields(node):
            if name in ('annotation', 'returns', 'decorator_list'):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self._deciding(child)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        place = self._source.position
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._source.text[start:end]

    def _operator(self, left: ast.AST, right: ast.AST, table: dict[str, str], kind: str) -> Iterator[Change]:
        """Replace the operator between two operands."""
        start, end = self._span(left)[1], self._span(right)[0]
        between = self._source.text[start:end]
        bare = re.sub(r'#[^\n]*', lambda comment: ' ' * len(comment[0]), between)
        found = re.search(r'\bis\s+not\b|\bnot\s+in\b|[a-z]+|[^\w\s()]+', bare)
        if found and (word := ' '.join(found[0].split())) in table:
            yield Change(kind, start + found.start(), start + found.end(), table[word])

    def _compare(self, node: ast.Compare) -> Iterator[Change]:
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            yield from self._operator(left, right, COMPARISONS, 'comparison')

    def _boolop(self, node: ast.BoolOp) -> Iterator[Change]:
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from self._operator(left, right, {'and': 'or', 'or': 'and'}, 'boolean')

    def _unaryop(self, node: ast.UnaryOp) -> Iterator[Change]:
        if isinstance(node.op, ast.Not):
            yield Change('boolean', *self._span(node), self._text(node.operand))

    def _binop(self, node: ast.BinOp) -> Iterator[Change]:
        texts = (ast.JoinedStr, ast.Dict, ast.Set, ast.List, ast.Tuple)
        for side in (node.left, node.right):
            if isinstance(side, texts) or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes)):
                return
        yield from self._operator(node.left, node.right, ARITHMETIC, 'arithmetic')

    def _constant(self, node: ast.Constant) -> Iterator[Change]:
        if isinstance(node.value, bool):
            yield Change('constant', *self._span(node), str(not node.value))
        elif isinstance(node.value, int | float):
            yield Change('constant', *self._span(node), f'{self._text(node)} + 1' if node.value else '1')

    def _condition(self, test: ast.expr) -> Iterator[Change]:
        """Negate a condition that is neither a comparison nor made of several conditions."""
        if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr):
            yield Change('condition', *self._span(test), f'not ({self._text(test)})')

    def _if(self, node: ast.If | ast.While | ast.IfExp) -> Iterator[Change]:
        yield from self._condition(node.test)

    _while = _ifexp = _if

    def _comprehension(self, node: ast.comprehension) -> Iterator[Change]:
        for test in node.ifs:
            yield from self._condition(test)

    def _return(self, node: ast.Return) -> Iterator[Change]:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            yield Change('return', *self._span(node.value), 'None')

    def _raise(self, node: ast.Raise) -> Iterator[Change]:
        yield Change('raise', *self._span(node), 'pass')

    def _expr(self, node: ast.Expr) -> Iterator[Change]:
        if isinstance(node.value, ast.Call) and not QUIET.match(self._text(node)):
            yield Change('statement', *self._span(node), 'pass')

    def _augassign(self, node: ast.AugAssign) -> Iterator[Change]:
        if isinstance(node.op, ast.Add | ast.Sub):
            table = {'+=': '-=', '-=': '+='}
            yield from self._operator(node.target, node.value, table, 'arithmetic')

    def _continue(self, node: ast.Continue) -> Iterator[Change]:
        yield Change('jump', *self._span(node), 'break')

    def _break(self, node: ast.Break) -> Iterator[Change]:
        yield Change('jump', *self._span(node), 'continue')

    def _call(self, node: ast.Call) -> Iterator[Change]:
        if isinstance(node.func, ast.Name) and node.func.id in LIMITS:
            yield Change('limit', *self._span(node.func), LIMITS[node.func.id])


# ---------------------------------------------------------------- SQL

COMPARING = {
    **{'<': '<=', '<=': '<', '>': '>=', '>=': '>', '=': '<>', '<>': '=', '<<': '>>', '>>': '<<'},
    **{'IS NULL': 'IS NOT NULL', 'IS NOT NULL': 'IS NULL'},
    **{'IS DISTINCT FROM': 'IS NOT DISTINCT FROM', 'IS NOT DISTINCT FROM': 'IS DISTINCT FROM'},
}
OPPOSITES = {
    **{'greatest': 'least', 'least': 'greatest', 'min': 'max', 'network': 'broadcast', 'broadcast': 'network'},
    **{'addr_first': 'addr_last', 'addr_last': 'addr_first', 'lag': 'lead', 'lead': 'lag'},
}
# The text before an equals sign that sets something.
SETTING = re.compile(r'(?:\b(?:ERRCODE|COLUMN|enable_seqscan|about)|\bSET\s+\w+|,\s*\w+)\s*$')
STATEMENT = re.compile(r'(?<=[;\n])[ ]*(?P<text>(?:PERFORM|DELETE|INSERT|UPDATE|(?:\w+\.)?\w+ :=)\s[^;]*;)')
RULES: tuple[tuple[str, str, dict[str, str] | str], ...] = (
    ('comparison', r'\bIS(?: NOT)? NULL\b|\bIS(?: NOT)? DISTINCT FROM\b', COMPARING),
    ('comparison', r'(?<![<>=:!|~@*-])(?:<=|>=|<>|<<|>>|<|>|=)(?![<>=~|])', COMPARING),
    ('boolean', r'\bAND\b', 'OR'),
    ('boolean', r'\bOR\b(?! REPLACE)', 'AND'),
    ('boolean', r'(?<!IS )(?<!ON )\bNOT\b (?!NULL|DISTINCT|EXISTS \(SELECT FROM pg)', ''),
    ('arithmetic', r'(?<= )\+(?= )', '-'),
    ('arithmetic', r'(?<= )-(?= )', '+'),
    ('constant', r'\btrue\b', 'false'),
    ('constant', r'\bfalse\b', 'true'),
    ('constant', r'(?<![\w$.])\d+(?![\w$.])', '+1'),
    ('order', r'(?<= )DESC\b', 'ASC'),
    ('order', r'\bORDER BY [\w.]+(?:\([\w.]+\))?(?=[ ,;)])(?! DESC)', '{} DESC'),
    ('lock', r' FOR (?:NO KEY )?UPDATE\b', ''),
    ('lock', r'\block_(?:owner|source)\([^()]*\)', 'NULL'),
    ('raise', r'\bRAISE EXCEPTION\b[^;]*;', 'NULL;'),
    ('return', r'(?<=\bRETURN )(?!QUERY|NEXT|NULL|true|false)[^;]+(?=;)', 'CASE WHEN false THEN {} END'),
    ('limit', r'\b(?:greatest|least|min|network|broadcast|addr_first|addr_last|lag|lead)(?=\()', OPPOSITES),
    ('limit', r'\bjsonb_strip_nulls(?=\()', ''),
    ('condition', r'(?<=\bIF )(?!NOT\b)[^;]+?(?= THEN\b)', 'NOT ({})'),
    ('condition', r'(?<=\bEXIT WHEN )[^;]+?(?=;)', 'NOT ({})'),
    ('condition', r'(?<=\bCONTINUE WHEN )[^;]+?(?=;)', 'NOT ({})'),
    ('condition', r'(?<=\bCASE WHEN ).+?(?= THEN\b)', 'NOT ({})'),
)
LIST = re.compile(r"'\{(\w+,)[\w,]+\}'::text\[\]")
CODE = re.compile(r"(?<=ERRCODE = ')(?:NP\d00|40001)(?=')")


class _Sql:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._masked = source.masked

    def changes(self) -> Iterator[Change]:
        for function in self._source.functions:
            start = self._body(function.start, function.end)
            for kind, pattern, becomes in RULES:
                for found in re.compile(pattern).finditer(self._masked, start, function.end):
                    if replacement := self._replacement(found, becomes):
                        yield Change(kind, found.start(), found.end(), replacement[0])
            for found in STATEMENT.finditer(self._masked, start, function.end):
                yield Change('statement', found.start('text'), found.end('text'), 'NULL;')
            for found in LIST.finditer(self._source.text, start, function.end):
                yield Change('constant', *found.span(1), '')
            for found in CODE.finditer(self._source.text, start, function.end):
                yield Change('constant', *found.span(), 'NP200' if found[0] != 'NP200' else 'NP100')

    def _body(self, start: int, end: int) -> int:
        """Return the position at which the statements of a function begin."""
        begins = re.compile(r'\$(?:do)?\$(?:\s*DECLARE)?|\bRETURN\b').search(self._masked, start, end)
        assert begins
        return begins.start() if begins[0] == 'RETURN' else begins.end()

    def _replacement(self, found: re.Match[str], becomes: dict[str, str] | str) -> tuple[str] | None:
        original = self._source.text[found.start() : found.end()]
        before = self._masked[max(0, found.start() - 60) : found.start()]
        if isinstance(becomes, dict):
            if found[0] == '=' and SETTING.search(before):
                return None
            return (becomes[found[0]],)
        if becomes == '+1':
            return (str(int(found[0]) + 1),)
        if becomes == 'OR' and re.search(r'\bBETWEEN [\w.]+ $', before):
            return None
        return (becomes.format(original),)
