"""docs/contract-coverage.md names a test for every rule, and these tests exist. They are looked up, not imported."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "contract-coverage.md"
SECTIONS = range(1, 10)
"""Of the contract."""


@cache
def known_in(path: str) -> frozenset[str]:
    """`test_name` and `Class::test_name` of a file; none where there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text())
    classes = [(f"{node.name}::", node.body) for node in tree.body if isinstance(node, ast.ClassDef)]
    return frozenset(
        f"{prefix}{node.name}"
        for prefix, body in [("", tree.body), *classes]
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def rows(page: str) -> Iterator[tuple[str, str, str]]:
    """(number of the section, rule, what proves it)."""
    section = ""
    for line in page.splitlines():
        if heading := re.match(r"## (\d)\. ", line):
            section = heading[1]
        elif line.startswith("| ") and line != "| rule | proved by |":
            rule, proofs = line.removeprefix("| ").removesuffix(" |").rsplit(" | ", 1)
            yield section, rule, proofs


def wrong(page: str) -> list[str]:
    """A sentence for each fault of the page."""
    found = list(rows(page))
    faults = [f"stands there twice: {row}" for row, times in Counter(row[1:] for row in found).items() if times > 1]
    faults += [f"section {number} has no rows" for number in SECTIONS if str(number) not in {row[0] for row in found}]
    for _, rule, proofs in found:
        if not re.fullmatch(r"(`tests/[\w/]+\.py(::\w+)+`(<br>|$))+", proofs):
            faults.append(f"names no tests, or more than tests: {rule}")
    for name in re.findall(r"`(tests/[^`\s]+::[^`\s]+)`", page):
        path, _, test = name.partition("::")
        if test not in known_in(path):
            faults.append(f"does not exist: {name}")
    return faults


def test_every_rule_names_tests_that_exist() -> None:
    assert wrong(PAGE.read_text()) == []


def test_what_is_wrong_with_the_page_would_be_found() -> None:
    page = PAGE.read_text()
    (_, rule, proofs), *_ = rows(page)
    row = f"| {rule} | {proofs} |\n"
    test = proofs.split("`")[1]
    for spoilt, said in (
        (page.replace(f"{test}`", f"{test}_renamed`"), f"does not exist: {test}_renamed"),
        (page.replace("tests/law/test_yaml12.py", "tests/law/test_yaml11.py"), "does not exist: tests/law/test_yaml11"),
        (page.replace("::TestMany::", "::"), "does not exist: tests/api/test_reading.py::test_filters_hold_together"),
        (page.replace(row, f"| {rule} | by hand |\n"), f"names no tests, or more than tests: {rule}"),
        (page.replace(row, row * 2), "stands there twice: "),
        (page.replace("## 7. ", "### 7. "), "section 7 has no rows"),
    ):
        assert any(fault.startswith(said) for fault in wrong(spoilt)), said
