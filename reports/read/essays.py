"""What the source says of an operator: the essay above its kernel and its reference. Read as text, never imported."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from reports.read.record import clean

PAPER = re.compile(r"arXiv:\s?\d{4}\.\d{4,5}|doi:\S+", re.IGNORECASE)


@dataclass(frozen=True)
class Paragraph:
    """A piece of an essay; `preformatted` where its line breaks carry meaning."""

    text: str
    preformatted: bool = False


@dataclass(frozen=True)
class Essay:
    """An operator in the words of its authors; empty where the source says nothing.

    equation: the first paragraph above the kernel; idea: those that follow; papers: what both sides cite; reference:
    the source of the reference, as the textbook writes it. The files are paths inside the checkout.
    """

    kernel_file: str
    equation: list[Paragraph]
    idea: list[Paragraph]
    reference_file: str
    statement: list[Paragraph]
    reference: str
    papers: list[str]


def essays(root: Path) -> dict[str, Essay]:
    """The essays of all operators of a checkout by the operator's name; none where `root` is no checkout.

    A file that cannot be read or parsed has no essay: a report without one is better than no report.
    """
    kernels = {path.stem: ast.get_docstring(tree) or "" for path, _, tree in _modules(root / "kernels")}
    found: dict[str, Essay] = {}
    for path, source, tree in _modules(root / "reference"):
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name] = _essay(path, source, tree, node, kernels.get(path.stem, ""))
    return found


def _modules(folder: Path) -> list[tuple[Path, str, ast.Module]]:
    found = []
    for path in sorted(folder.glob("[!_]*.py")):
        try:
            source = path.read_text(encoding="utf-8")
            found.append((path, source, ast.parse(source)))
        except (OSError, ValueError, SyntaxError, RecursionError):
            continue
    return found


def _essay(path: Path, source: str, tree: ast.Module, node: ast.FunctionDef, kernel: str) -> Essay:
    statement = ast.get_docstring(node) or ""
    told = paragraphs(kernel)
    # A colon hands over to what stands below it, so that belongs to the equation too.
    first = 2 if len(told) > 1 and told[1].preformatted else 1
    cited = (f"{kernel}\n{ast.get_docstring(tree) or ''}\n{statement}").replace("\n", " ")
    return Essay(
        kernel_file=f"kernels/{path.name}" if kernel else "",
        equation=told[:first],
        idea=told[first:],
        reference_file=f"reference/{path.name}",
        statement=paragraphs(statement),
        reference=clean(ast.get_source_segment(source, node) or ""),
        papers=list(dict.fromkeys(clean(paper).replace(": ", ":") for paper in PAPER.findall(cited))),
    )


def paragraphs(text: str) -> list[Paragraph]:
    """A docstring as paragraphs: lines that are indented keep their breaks, all others flow."""
    found = []
    for block in re.split(r"\n\s*\n", clean(text).strip("\n")):
        lines = block.splitlines()
        if not "".join(lines).strip():
            continue
        if all(line.startswith("    ") for line in lines):
            found.append(Paragraph("\n".join(line[4:].rstrip() for line in lines), preformatted=True))
        else:
            found.append(Paragraph(" ".join(line.strip() for line in lines)))
    return found
