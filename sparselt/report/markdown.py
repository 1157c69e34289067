"""A run's findings as a Markdown page, for a repository's docs: claims beside figures, made from the result files."""

from pathlib import Path

from sparselt.errors import StoreError
from sparselt.report.claims import claims, claims_markdown
from sparselt.report.empty_layers import empty_layers
from sparselt.report.findings import findings
from sparselt.report.others import others_markdown
from sparselt.report.page import statement
from sparselt.report.results import write_text
from sparselt.report.run import read_run
from sparselt.report.sections import SECTIONS
from sparselt.report.summary import is_core


def write_markdown(folder: str | Path, path: str | Path) -> None:
    """Write the page of the run in `folder` to `path`, through a temporary name.

    Raises:
        StoreError: a run that does not read, or a path that cannot be written; nothing is left then.
    """
    run, path = read_run(folder), Path(path)
    if path.is_dir():
        raise StoreError(f"{path} is a folder; give the name of a file, such as {path / 'digits.md'}")
    if path.resolve().parent == run.folder.resolve() and path.name in _OF_THE_RUN:
        raise StoreError(f"{path} is a file of the run itself; give another name, such as {path.parent / 'digits.md'}")
    record, data = run.record, run.data
    parts = [f"# {record['title']}", statement(record)]
    if record["synthetic"]:
        parts.append("**The data is synthetic: nothing here says anything about lottery tickets.**")
    found = claims(data)
    if found:
        parts += ["## The papers' findings", claims_markdown(found).rstrip(), _HOW_TO_READ]
    parts.append("## What the run shows")
    if any(map(is_core, run.rows)):
        parts.append(_list(findings(data.levels)))
    if empty := list(empty_layers(data)):
        parts.append(_list(empty))
    for name, section in SECTIONS.items():
        texts = section.findings(data) if data.select(experiment=name) else []
        if texts:
            parts += [f"### {section.title}", _list(texts)]
    if others := others_markdown(run.rows, record):
        parts += ["### Other experiments", others]
    versions = ", ".join(f"{name} {version}" for name, version in sorted((record.get("versions") or {}).items()))
    facts = [f"{name}: {record[name]}" for name in ("command", "seed", "device") if record.get(name) is not None]
    parts += ["## Record", _list([*facts, f"versions: {versions}", f"measurements: {len(run.rows):,}"])]
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent} is not a folder; make it, or give another path")
    write_text(path, "\n\n".join(parts) + "\n")


_OF_THE_RUN = ("results.csv", "results.json", "record.json", "ledger.csv", "report.html")
_HOW_TO_READ = (
    "*agrees*: the test supports the paper's finding (p < 0.05), and so does what else its statistic names; *does not "
    "agree*: the measurements contradict it; *cannot be seen at this scale*: neither. ± is the standard deviation over "
    "replicates. Tests were not corrected for their number."
)


def _list(texts: list[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)
