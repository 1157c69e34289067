"""The Python blocks of the pages run as the pages say, and the numbers of cards and papers are measured ones."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def printed(page: str, folder: Path) -> str:
    """What the page's blocks print, as one file."""
    script = folder / "page.py"
    texts = blocks(DOCS / page)
    # What follows a block under `if __name__ == …` stands under it too: worker processes import the file.
    guards = [place for place, text in enumerate(texts) if "__main__" in text]
    if guards:
        after = "\n".join(texts[guards[0] + 1 :])
        texts[guards[0] + 1 :] = [re.sub(r"^(?=.)", "    ", after, flags=re.MULTILINE)]
    script.write_text("\n".join(texts))
    result = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_page_with_python_is_run():
    run = {"tutorial.md", "own-loop.md", "reading-results.md", "sparse-cpu.md", "kernels.md"}
    run |= {"your-own.md", "frameworks.md"}  # by test_your_own_page.py and test_frameworks.py
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if blocks(page)} == run


def test_the_tickets_of_the_tutorial_beat_random_masks(tmp_path):
    text = printed("tutorial.md", tmp_path)
    *_, (density, ticket, control) = re.findall(r"([\d.]+)% of .* ticket ([\d.]+)%, random mask ([\d.]+)%", text)
    assert float(density) == 6.2 and float(ticket) < float(control) / 2
    barriers = [float(number) for number in re.findall(r"'([\d.]+)'", text)]
    assert len(barriers) == 4 and max(barriers) < 2


def test_the_blocks_of_the_own_loop_run(tmp_path):
    text = printed("own-loop.md", tmp_path)
    assert "['0.weight', '2.weight']" in text and "20% left" in text


def test_the_blocks_about_results_run(tmp_path):
    text = printed("reading-results.md", tmp_path)
    means = [float(number) for number in re.findall(r"^\d+ +(\S+) +\S+ +2$", text, flags=re.MULTILINE)]
    assert means == [0, 0]  # the difference of a run from itself, at its two levels with a rewound network


@pytest.mark.parametrize("page", ["sparse-cpu.md", "kernels.md"])
def test_the_blocks_about_sparse_layers_run(page, tmp_path):
    printed(page, tmp_path)


def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(ROOT / "examples" / "digits.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", ()) for output in outputs)
    text = "".join(output["text"] for output in outputs if output.output_type == "stream")
    (density, jaccard, chance) = map(float, re.findall(r"density (\S+), Jaccard (\S+), chance (\S+)", text)[0])
    assert density == pytest.approx(0.64**6, abs=1e-3) and jaccard > 0 and chance > 0


def measured() -> list[tuple[str, dict]]:
    """The rows of docs/kernels.md, each with the file that its section links to."""
    found = []
    for section in (DOCS / "kernels.md").read_text().split("\n## ")[1:]:
        if section.startswith(("`conv_bn`", "A captured step")):  # only a GPU can measure them, and none has
            assert "benchmarks/results" not in section
            continue
        (name,) = re.findall(r"\(\.\./(benchmarks/results/\S+\.json)\)", section)
        rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \| (.+) \| ([\d.]+)× \|$", section, flags=re.MULTILINE)
        assert rows, name
        found += [(name, dict(zip(("case", "density", "K", "who", "ratio"), row, strict=True))) for row in rows]
    return found


@pytest.mark.parametrize(("name", "row"), measured(), ids=lambda value: str(value)[:60])
def test_ratios_of_the_cards_are_those_of_their_file(name, row):
    records = json.loads((ROOT / name).read_text())["records"]
    wanted = (row["case"], float(row["density"]), int(row["K"]), row["who"])
    (ratio,) = [r["ratio"] for r in records if (r["case"], r["density"], r["K"], r["who"]) == wanted]
    assert f"{ratio:.2f}" == row["ratio"]


@pytest.mark.parametrize("page", sorted(DOCS.glob("papers/*.md")), ids=lambda page: page.stem)
def test_quoted_figures_stand_in_the_results(page):
    results = "\n".join(result.read_text() for result in DOCS.glob("results/*.md"))
    for quoted in re.findall(r"^> (.+)$", page.read_text(), flags=re.MULTILINE):
        assert quoted in results
