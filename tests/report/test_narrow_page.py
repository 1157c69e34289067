"""The page on a telephone: figures and wide tables scroll in boxes of their own, and their text stays readable."""

import dataclasses
import re
import shutil
import subprocess

import pytest
from test_section_connectivity import invented

from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.sections import sections_of
from sparselt.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_MEASURE = """<!DOCTYPE html><body style="margin:0">
<iframe src="{page}" style="border:0;width:400px;height:900px"></iframe>
<pre id="found"></pre><script>setTimeout(() => {{
  const page = document.querySelector("iframe").contentDocument, lines = ["page " + page.documentElement.scrollWidth];
  for (const each of page.querySelectorAll("main *")) {{
    const at = each.getBoundingClientRect(), box = each.closest(".scroll");
    const free = each.closest("svg") === null && (box === null || box === each);
    if (free && at.right > 401) lines.push("over " + each.tagName);
  }}
  for (const svg of page.querySelectorAll(".still > svg")) {{
    const width = svg.getBoundingClientRect().width;
    if (width) lines.push("scale " + width / svg.viewBox.baseVal.width);
  }}
  document.getElementById("found").textContent = lines.join(";");
}}, 5000);</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, invent):
    """A page with a heat map, interactive figures and tables of three rewind steps."""
    heat_map = [dataclasses.asdict(row) | {"scale": "paper"} for row in invented(replicates=2) if row.condition]
    folder = invent.run(tmp_path_factory.mktemp("narrow"), [*invent.rows(levels=3, replicates=2), *heat_map])
    return write_report(folder, sections_of(EXPERIMENTS))


def test_every_figure_stands_in_a_box_that_scrolls_before_its_letters_grow_too_small(page):
    figures = re.findall(r'<figure id="([^"]*)">\n(.*)', page.read_text(encoding="utf-8"))
    assert len(figures) == 5
    for name, svg in figures:
        found = re.match(
            r'<div class="scroll still"><svg role="img" aria-label="[^"]+" viewBox="0 0 (\S+) \S+" '
            r'style="min-width: (\d+)px">',
            svg,
        )
        assert found and float(found[2]) == pytest.approx(0.8 * float(found[1]), abs=1), name


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_at_400_pixels_nothing_but_the_boxes_is_wider_than_the_page(page, tmp_path):
    wrapper = tmp_path / "narrow.html"  # a window of Chromium's is never narrower than 500 pixels
    wrapper.write_text(_MEASURE.format(page=page.as_uri()))
    how = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--disable-web-security"]
    how += ["--allow-file-access-from-files", "--virtual-time-budget=12000", "--dump-dom", wrapper.as_uri()]
    done = subprocess.run([CHROMIUM, *how], capture_output=True, text=True, timeout=120)
    lines = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1].split(";")
    assert int(lines[0].removeprefix("page ")) <= 400
    assert [line for line in lines if line.startswith("over")] == []
    scales = [float(line.removeprefix("scale ")) for line in lines if line.startswith("scale")]
    assert scales and min(scales) >= 0.79
