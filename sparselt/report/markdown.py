"""A run's findings as a Markdown page, for a repository's docs: claims beside figures, made from the result files."""

from collections.abc import Iterable
from pathlib import Path

from sparselt.errors import StoreError
from sparselt.report.claims import claims, claims_table
from sparselt.report.data import Sections
from sparselt.report.others import others_tables, others_titles
from sparselt.report.results import write_text
from sparselt.report.run import read_run, statement

_OF_THE_RUN = ("results.csv", "results.json", "record.json", "ledger.csv", "report.html")
_HOW_TO_READ = (
    "*agrees*: the test supports the paper's finding (p < 0.05), and so does what else its statistic names; *does not "
    "agree*: the measurements contradict it; *cannot be seen at this scale*: neither. ± is the standard deviation over "
    "replicates. Tests were not corrected for their number."
)


def write_markdown(folder: str | Path, path: str | Path, sections: Sections) -> None:
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
    found, _ = claims(data, sections)
    if found:
        parts += ["## The papers' findings", claims_table(found).markdown(), _HOW_TO_READ]
    parts.append("## What the run shows")
    leads = [section.lead for section in sections.values() if section.lead]
    parts += [_list(lead.findings(data)) for lead in leads if lead.concerns(data)]
    if warnings := [text for section in sections.values() for text in section.warnings(data)]:
        parts.append(_list(warnings))
    for name, section in sections.items():
        if data.select(experiment=name) and (texts := section.findings(data)):
            parts += [f"### {section.title}", _list(texts)]
            parts += [text for table in section.tables(data) for text in (table.markdown(), table.note) if text]
    if others := others_tables(data, sections):
        titles = others_titles(data, sections)
        parts += [
            "### Other experiments",
            *([_list(titles)] if titles else []),
            *(table.markdown() for table in others),
        ]
    versions = ", ".join(f"{name} {version}" for name, version in sorted((record.get("versions") or {}).items()))
    facts = [f"{name}: {record[name]}" for name in ("command", "seed", "device") if record.get(name) is not None]
    parts += ["## Record", _list([*facts, f"versions: {versions}", f"measurements: {len(run.rows):,}"])]
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent} is not a folder; make it, or give another path")
    write_text(path, "\n\n".join(parts) + "\n")


def _list(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)
