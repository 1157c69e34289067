"""Turns what this project's docstrings have beside Google's sections into Markdown, for mkdocstrings."""

import re

import griffe

# `name: text`, with lines that continue it indented, and no empty line between two of them.
DESCRIBED = re.compile(r"^(`?[a-z_]\w*`?(?:, `?\w+`?)*): (?=\S)", re.MULTILINE)
SECTIONS = ("args", "raises", "returns", "attributes", "yields")


class Markdown(griffe.Extension):
    """Lists of described arguments become bullets, `::` before a block of code becomes `:`."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    summary, *paragraphs = text.replace("::\n\n", ":\n\n").split("\n\n")
    return "\n\n".join([summary, *(bulleted(p) if DESCRIBED.match(p) else p for p in paragraphs)])


def bulleted(paragraph: str) -> str:
    """The paragraph with each `name: text` as a bullet. What follows without an indent is a paragraph again."""
    lines: list[str] = []
    for line in paragraph.split("\n"):
        found = DESCRIBED.match(line)
        if found and found[1].lower() not in SECTIONS:
            line = f"- `{found[1].replace('`', '')}`: {line[found.end() :]}"
        elif lines and not line.startswith(" ") and not line.startswith("-"):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
