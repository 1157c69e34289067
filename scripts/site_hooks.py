"""Hooks of mkdocs: the README becomes a page, files outside docs/ that pages link to come along, and the pages of
papers show the findings of our runs.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
FINDINGS = re.compile(r"<!-- findings: (\w+) -->")


def on_files(files, config):
    """Adds the README as about.md, and below files/ every file outside docs/ that a page links to."""
    readme = LINK.sub(r"../\1", (ROOT / "README.md").read_text())
    files.append(File.generated(config, "about.md", content=readme))
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            target = target_of(page, link)
            if not target.is_file() or target.is_relative_to(DOCS) or files.get_file_from_path(copy_of(target)):
                continue
            files.append(File.generated(config, copy_of(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links that leave docs/ to the copies; one to a folder has none, and becomes its text."""
    folder = "../" * page.file.src_uri.count("/")

    def turned(match: re.Match) -> str:
        target = target_of(page.file, match[1])
        if target.is_relative_to(DOCS):
            return folder + target.relative_to(DOCS).as_posix()
        return folder + copy_of(target)

    def without_folders(match: re.Match) -> str:
        return match[1] if target_of(page.file, match[2]).is_dir() else match[0]

    markdown = re.sub(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)\)", without_folders, markdown)
    return FINDINGS.sub(findings, LINK.sub(turned, markdown))


def target_of(page: File, link: str) -> Path:
    return (DOCS / page.src_uri).parent.joinpath(link).resolve()


def copy_of(target: Path) -> str:
    """Where the site has a file from outside docs/. Sources get a suffix that browsers show as text."""
    if target == ROOT / "README.md":
        return "about.md"
    name = f"files/{target.relative_to(ROOT).as_posix()}"
    return name if target.suffix in (".json", ".png", ".svg") else f"{name}.txt"


def findings(match: re.Match) -> str:
    """The rows of the result pages whose paper has this word, as one table."""
    table = ["| run | finding | here | agrees? |", "|---|---|---|---|"]
    for page in ("digits", "fashion_mnist_lenet"):
        text = (DOCS / "results" / f"{page}.md").read_text().partition("## The papers' findings\n\n")[2]
        header, _, *rows = [line.strip("| ").split(" | ") for line in text.partition("\n\n")[0].splitlines()]
        for row in (dict(zip(header, cells, strict=True)) for cells in rows):
            if match[1] in row["paper"]:
                shown = " | ".join(row[column] for column in ("finding", "here", "agrees?"))
                table.append(f"| [{page}](../results/{page}.md) | {shown} |")
    return "\n".join(table)
