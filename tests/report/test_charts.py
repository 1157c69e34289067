"""Interactive versions of figures: the numbers of results.csv, in valid JSON, with plotly.js inside the page."""

import base64
import html
import json
import math
import re
import shutil
import statistics
import subprocess
import zlib
from dataclasses import replace
from importlib import resources

import pytest
from plotly.offline import get_plotlyjs

from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.imp.figures import lead_drawings
from sparselt.experiments.sections import sections_of
from sparselt.report import write_report
from sparselt.report.charts import chart_json
from sparselt.report.data import Data, Drawing
from sparselt.report.results import Row

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def rows(invent):
    columns = dict.fromkeys(("to_level", "position", "condition", "rewind_step"))
    return [Row(**columns | {"condition": ""} | row) for row in invent.rows(levels=3, replicates=3)]


def charts(rows):
    return {name: json.loads(chart_json(drawing)) for name, drawing in lead_drawings(Data(rows, {})).items()}


def test_a_chart_holds_the_mean_and_every_replicate_of_each_place(rows):
    traces = {trace.get("name"): trace for trace in charts(rows)["barriers"]["data"]}
    at = {"metric": "barrier", "rewind_step": 60, "level": 1}
    values = {r.replicate: 100 * r.value for r in rows if all(getattr(r, name) == v for name, v in at.items())}
    place = traces["rewind 60"]["x"].index(1.5)
    assert traces["rewind 60"]["y"][place] == pytest.approx(statistics.mean(values.values()), abs=1e-4)
    assert traces["rewind 60"]["error_y"]["array"][place] == pytest.approx(statistics.stdev(values.values()), abs=1e-4)
    assert traces["rewind 60"]["customdata"][place].endswith("n = 3")
    for replicate, value in values.items():
        of = traces[f"rewind 60, replicate {replicate}"]
        assert of["y"][place] == pytest.approx(value, abs=1e-4) and of["meta"] == replicate


def test_a_chart_names_its_places(rows):
    titles = {name: chart["data"][0] for name, chart in charts(rows).items()}
    assert {"level 0, 100% of the weights", "level 3, 51.2% of the weights"} <= {
        *titles["error_against_density"]["text"]
    }
    assert set(titles["barriers"]["text"]) == {"level 0 to 1", "level 1 to 2", "level 2 to 3"}
    path = dict(zip(titles["error_along_path"]["x"], titles["error_along_path"]["text"], strict=True))
    assert (path[1.0], path[1.3]) == ("level 1, 80.0% of the weights", "level 1 to 2, at 0.3")


def test_axes_and_the_matching_band_are_those_of_the_figure(rows):
    drawing = lead_drawings(Data(rows, {}))["error_against_density"]
    layout = json.loads(chart_json(drawing))["layout"]
    assert layout["xaxis"]["type"] == "log"
    assert layout["xaxis"]["range"] == [pytest.approx(math.log10(x)) for x in drawing.figure.axes[0].get_xlim()]
    assert layout["xaxis"]["ticktext"] == ["100", "80.0", "64.0", "51.2"]
    dense = [100 * row.value for row in rows if row.variant == "dense" and row.metric == "test_error"]
    band, line = layout["shapes"]
    assert band["y0"] == pytest.approx(statistics.mean(dense), abs=1e-4)
    assert band["y1"] == pytest.approx(statistics.mean(dense) + statistics.stdev(dense), abs=1e-4)
    assert (line["type"], line["y0"], line["y1"]) == ("line", band["y0"], band["y0"]) and band["line"]["width"] == 0


def test_a_chart_of_a_figure_in_two_panels_has_the_names_of_its_places(rows):
    drawing = lead_drawings(Data(rows, {}))["error_along_path"]
    assert len(drawing.figure.axes) == 2
    axis = json.loads(chart_json(drawing))["layout"]["xaxis"]
    assert axis["title"]["text"] == "level, with weights remaining in %"
    assert axis["ticktext"] == ["0<br>100", "1<br>80.0", "2<br>64.0", "3<br>51.2"]


def test_hollow_markers_are_hollow(rows):
    drawing = lead_drawings(Data(rows, {}))["barriers"]
    look, points = drawing.chart.lines[0]
    chart = replace(drawing.chart, lines=[(look._replace(hollow=True), points), (look, points)])
    symbols = [trace["marker"]["symbol"] for trace in json.loads(chart_json(replace(drawing, chart=chart)))["data"][1:]]
    assert {*symbols[:4]} == {"circle-open"} and {*symbols[4:]} == {"circle"}


def test_captions_of_interactive_figures_say_what_only_the_files_show(rows):
    captions = {name: drawing.caption for name, drawing in lead_drawings(Data(rows, {})).items()}
    assert "thin, in the PNG and SVG: single replicates, and below" in captions["error_along_path"]
    assert "short dashes, in the PNG and SVG: single replicates." in captions["barriers"]
    assert "controls in grey" in captions["error_against_density"]
    alone = [row for row in rows if row.variant not in ("random", "reinit")]
    assert "controls" not in lead_drawings(Data(alone, {}))["error_against_density"].caption


def test_what_diverged_is_left_out(rows):
    rows = [replace(row, value=math.nan) if row.level == 2 and row.replicate == 0 else row for row in rows]
    text = chart_json(lead_drawings(Data(rows, {}))["error_against_density"])
    assert "NaN" not in text
    traces = {trace.get("name"): trace for trace in json.loads(text)["data"]}
    assert 0.8**2 not in traces["rewind 60, replicate 0"]["x"] and 0.8**2 in traces["rewind 60, replicate 1"]["x"]


def test_a_figure_without_a_chart_stays_as_it_is(rows):
    drawing = lead_drawings(Data(rows, {}))["barriers"]
    assert chart_json(Drawing(drawing.figure, "", "")) == ""


def test_the_page_holds_plotly_as_it_is_installed_and_takes_its_own_colours(reported):
    text = (reported / "report.html").read_text(encoding="utf-8")
    packed = re.search(r'<script type="text/plain" id="plotly">(.*?)</script>', text, re.DOTALL)[1]
    assert zlib.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    style = resources.files("sparselt.report").joinpath("templates/style.css").read_text()
    found = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 3
    for chart in found:
        assert {*re.findall(r"var\((--[\w-]+)\)", html.unescape(chart))} <= {*re.findall(r"(--[\w-]+):", style)}


def test_a_page_without_charts_carries_no_plotly_and_no_hint(tmp_path, invent):
    folder = invent.run(tmp_path, invent.rows(levels=1))
    text = write_report(folder, {}).read_text()
    assert len(text) < 50_000 and 'id="hint"' not in text


@pytest.fixture(scope="module")
def copies(tmp_path_factory, invent):
    """The page of a run that has no figures of levels: two copies of the dense network at two rewind steps."""
    place = {"setting": "invented", "scale": "paper", "experiment": "connectivity", "variant": "dense", "level": 0}
    place |= {"to_level": 0, "density": 1.0, "condition": "between=copies", "metric": "instability"}
    found = [
        place | {"rewind_step": step, "replicate": k, "value": 0.3 + 0.1 * k - 0.001 * step}
        for step in (0, 60)
        for k in (0, 1)
    ]
    return write_report(invent.run(tmp_path_factory.mktemp("copies"), found), sections_of(EXPERIMENTS))


def test_a_page_of_charts_without_figures_of_levels_says_how_to_read_them(copies):
    text = copies.read_text(encoding="utf-8")
    assert text.count('<script type="application/json">') == 1 and 'id="error_against_density"' not in text
    assert re.search(r'<p class="note" id="hint" hidden>Point at a place on a figure, or tap it,', text)
    assert text.index('id="hint"') < text.index('<figure id="instability">')


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_shows_the_hint_once_a_chart_is_drawn(copies, tmp_path):
    how = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000"]
    done = subprocess.run([CHROMIUM, *how, "--dump-dom", copies.as_uri()], capture_output=True, text=True, timeout=120)
    assert '<p class="note" id="hint">' in done.stdout and 'class="chart js-plotly-plot"' in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_draws_every_chart_and_prints_no_error(reported, tmp_path):
    how = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    how += ["--virtual-time-budget=10000", "--dump-dom", (reported / "report.html").as_uri()]
    done = subprocess.run([CHROMIUM, *how], capture_output=True, text=True, timeout=120)
    assert len(re.findall(r'class="chart js-plotly-plot"', done.stdout)) == 3 and "rewind 60" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
