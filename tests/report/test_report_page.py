"""The figures and the page: self-contained, well formed, escaped, the same bytes each time, honest in the odd cases."""

import csv
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources

import pytest

from sparselt.errors import SparseltError
from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.sections import sections_of
from sparselt.report import write_markdown, write_report
from sparselt.report.drawing import COLOURS
from sparselt.report.page import PAPERS

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Collects tags, ids, references, text and scripts; fails on a tag that closes another than the one open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.text, self.scripts = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.references += [
            value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "srcset")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)
        elif self.open[-1] == "script":
            self.scripts.append(data)


def report(folder):
    page = Checker(write_report(folder, sections_of(EXPERIMENTS)).read_text(encoding="utf-8"))
    page.words = " ".join(" ".join(page.text).split())
    return page


def digests(folder):
    files = [folder / "report.html", *sorted((folder / "figures").iterdir())]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def diverged(row):
    return row | {"value": math.nan} if row["level"] >= 4 or (row["level"], row["replicate"]) == (2, 1) else row


def zero_errors(row):
    return row | {"value": 0.0}


CASES = {
    "one replicate": ({"replicates": 1}, None, "is unknown and matching cannot be judged"),
    "one level": ({"levels": 1}, None, "The mean barrier from level 0 to 1 is"),
    "one rewind step": ({"rewind_steps": (200,)}, None, "Rewound to step 200"),
    "steps of ImageNet": ({"rewind_steps": (0, 1250, 5000), "dense": 0.24}, None, "Rewound to step 5,000"),
    "no connectivity": ({"connectivity": False}, None, "barriers between levels, which the experiment connectivity"),
    "no controls": ({"controls": False}, None, "Rewound to step 200"),
    "diverged": ({}, diverged, "some replicates diverged"),
    "no error at all": ({}, zero_errors, "every level matches"),
    "many levels": ({"levels": 25, "replicates": 1, "rewind_steps": (0, 60)}, None, "0.378%"),
}


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_and_says_so_in_each_odd_case(tmp_path, invent, case):
    shape, change, says = CASES[case]
    page = report(
        invent.run(
            tmp_path, [change(row) if change else row for row in invent.rows(**{"levels": 4, "replicates": 2} | shape)]
        )
    )
    assert says in page.words
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == (1 if case == "no connectivity" else 3)


def test_page_needs_nothing_from_elsewhere(reported):
    text = (reported / "report.html").read_text(encoding="utf-8")
    page = Checker(text)
    assert not {"link", "iframe", "object", "img", "base"} & set(page.tags)
    assert "<script src" not in text and "Content-Security-Policy\" content=\"default-src 'none';" in text
    text = re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", text, flags=re.DOTALL)
    own = {f"#{name}" for name in page.ids} | {str(path.relative_to(reported)) for path in reported.rglob("*")}
    elsewhere = set(page.references) - own
    assert elsewhere == {f"https://arxiv.org/abs/{number}" for _, number in PAPERS.values()}  # links, nothing loaded
    text = re.sub(r"https://arxiv\.org/abs/", "", text)
    assert not re.search(r"https?:|@import|//", re.sub(r"</?[a-z]", "<", text))
    targets = re.findall(r"url\(([^)]*)\)", text)
    assert targets and set(targets) <= own


def test_figures_on_the_page_take_its_colours(reported):
    text = (reported / "report.html").read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text))
    defined = set(
        re.findall(r"(--[a-z0-9-]+):", resources.files("sparselt.report").joinpath("templates/style.css").read_text())
    )
    assert used <= defined
    assert {f"--series-{place}" for place in range(len(COLOURS))} <= defined
    assert not set(re.findall(r"#[0-9a-f]{6}", text.partition("</style>")[2])) & {*COLOURS, "#000000"}


def test_page_escapes_what_the_record_and_the_rows_say(tmp_path, invent):
    evil = "<script>alert('&amp;\"')</script>"
    record = invent.record(
        title=evil, paper=evil, data=evil, command=evil, device=evil, versions={evil: evil}, setting=evil
    )
    record["protocol"] = [[evil, evil, evil]]
    rows = invent.rows(levels=1, setting=evil)
    place = {"experiment": evil, "variant": evil, "condition": evil}
    rows.append(rows[-1] | place | {"metric": "test_error", "value": 0.5, "position": None})
    page = report(invent.run(tmp_path, rows, record, [("a", evil, evil, "ran", 1, 1.0, "")]))
    assert page.scripts and not any("alert" in script for script in page.scripts)
    assert page.words.count(evil) == 17


def test_an_experiment_without_a_section_has_its_tables_under_its_title_on_the_page_and_in_markdown(tmp_path, invent):
    place = {"experiment": "transfer", "variant": "line", "replicate": 0, "level": 1, "to_level": 2, "density": 0.8}
    rows = invent.rows(levels=1)
    rows += [rows[0] | place | {"metric": name, "value": v} for name, v in (("max_error", 0.25), ("barrier", 0.1))]
    record = invent.record(experiments={"transfer": {"title": "Lines between tasks.", "paper": "mine"}})
    folder = invent.run(tmp_path, rows, record)
    page = report(folder)
    write_markdown(folder, tmp_path / "page.md", sections_of(EXPERIMENTS))
    for text in (page.words, (tmp_path / "page.md").read_text()):
        assert "Other experiments" in text and "transfer: Lines between tasks. (mine)" in text
        assert "largest error %" in text and "1–2" in text and "25.0" in text and "10.0" in text


def test_a_ledger_says_what_its_stages_and_their_steps_are_called(tmp_path, invent):
    folder = invent.run(tmp_path, invent.rows(levels=1))
    with (folder / "ledger.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "kind", "title", "unit", "label", "status", "steps", "seconds", "finished"])
        writer.writerow(["a1", "path", "evaluate linear paths", "points", "levels 0 to 1", "ran", 11, 1.5, ""])
    assert "evaluate linear paths 1 0 0 0 11 points 1.5 s 1.5 s" in report(folder).words


@pytest.mark.parametrize("synthetic", [True, False])
def test_page_says_in_plain_words_whether_the_data_is_synthetic(tmp_path, invent, synthetic):
    page = report(invent.run(tmp_path, invent.rows(levels=1), invent.record(synthetic=synthetic)))
    assert ("The data is synthetic." in page.words) is synthetic
    assert "No data: the numbers were drawn at random for a test." in page.words


@pytest.mark.parametrize("differences", [[], ["Crops are larger.", "The order is another."]])
def test_page_names_what_else_differs_from_the_paper(tmp_path, invent, differences):
    record = invent.record(**({"differences": differences} if differences else {}))
    page = report(invent.run(tmp_path, invent.rows(levels=1), record))
    said = "What else differs from the paper and its code: Crops are larger. The order is another."
    assert (said in page.words) == bool(differences)


def test_page_states_the_protocol_the_cost_and_the_record(reported):
    words = " ".join(" ".join(Checker((reported / "report.html").read_text(encoding="utf-8")).text).split())
    assert "learning rate 0.3 ours" in words
    assert "train 1 1 1 0 1,150 steps 4.5 s 2.2 s" in words
    assert "5.8 s of work by single workers in all, of which 3.5 s in the last call" in words
    assert "python -m sparselt.reproduce invented" in words and "an invented processor" in words
    assert "12 levels, each removing 20% of the weights that remain, rewound to step 0, 60 and 200 of 600" in words


def test_page_without_a_ledger_says_that_the_cost_is_unknown(tmp_path, invent):
    page = report(invent.run(tmp_path, invent.rows(levels=1), ledger=None))
    assert "The folder holds no ledger.csv, so the cost is unknown." in page.words


def test_equal_runs_give_equal_bytes_whatever_the_process_and_the_matplotlibrc(tmp_path, invent, reported):
    folder = invent.run(tmp_path / "other")
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\nsavefig.dpi: 30\nsvg.fonttype: path\n")
    code = (
        "import sys; from sparselt.report import write_report;"
        "from sparselt.experiments import EXPERIMENTS;from sparselt.experiments.sections import sections_of;"
        "write_report(sys.argv[1], sections_of(EXPERIMENTS));"
        "import matplotlib; assert matplotlib.rcParams['font.size'] == 30;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    changed = {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-c", code, str(folder)], env=os.environ | changed, check=True)
    assert digests(folder) == digests(reported)
    assert len(digests(folder)) == 7


def test_report_written_again_is_the_same_and_leaves_no_other_file(tmp_path, invent):
    folder = invent.run(tmp_path, invent.rows(levels=2))
    before = {path.name for path in folder.iterdir()}
    write_report(folder, sections_of(EXPERIMENTS))
    first = digests(folder)
    write_report(folder, sections_of(EXPERIMENTS))
    assert digests(folder) == first
    assert {path.name for path in folder.iterdir()} == before | {"figures", "report.html"}
    assert all(not name.startswith(".") for name in first)


def spoil_json(folder):
    (folder / "record.json").write_text('{"setting":\n')


def spoil_record(folder):
    (folder / "record.json").write_text(json.dumps({"setting": "invented", "scale": "paper"}))


def spoil_scale(folder):
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"scale": "smoke"}))


def spoil_ledger(folder):
    with (folder / "ledger.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["a", "train", "", "ran", "many", 1, ""])


def spoil_seconds(folder):
    path = folder / "ledger.csv"
    lines = path.read_text().splitlines()
    cells = next(csv.reader([lines[1]]))
    cells[5] = "nan"
    with path.open("w", newline="") as file:
        file.write(lines[0] + "\n")
        csv.writer(file).writerow(cells)


def spoil_count(folder):
    record = json.loads((folder / "record.json").read_text())
    rows = len((folder / "results.csv").read_text().splitlines()) - 1
    (folder / "record.json").write_text(json.dumps(record | {"rows": rows}))
    lines = (folder / "results.csv").read_text().splitlines(keepends=True)
    (folder / "results.csv").write_text("".join(lines[:-3]))


def spoil_results(folder):
    with (folder / "results.csv").open("a") as file:
        file.write("invented,paper\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "record.json").unlink(), r"record.json does not exist"),
        (spoil_json, r"record.json, line 2: not JSON"),
        (spoil_record, r"record.json: 'title' is None; expected a str"),
        (spoil_scale, r"holds invented at scale paper, record.json invented at scale smoke"),
        (spoil_ledger, r"ledger.csv, line 7: steps or seconds is not a number"),
        (spoil_seconds, r"ledger.csv, line 2: steps or seconds is not finite"),
        (spoil_count, r"results.csv holds \d+ measurements, record.json says \d+; run again"),
        (spoil_results, r"results.csv, line \d+: 2 cells; expected 14"),
    ],
)
def test_malformed_run_is_refused_and_nothing_is_written(tmp_path, invent, spoil, says):
    folder = invent.run(tmp_path, invent.rows(levels=1))
    spoil(folder)
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(SparseltError, match=says):
        write_report(folder, sections_of(EXPERIMENTS))
    assert {path.name for path in folder.iterdir()} == before


def test_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(SparseltError, match="absent is not a folder; expected the folder of a run"):
        write_report(tmp_path / "absent", sections_of(EXPERIMENTS))


def test_plain_defaults_stand_apart_from_what_somebody_chose(tmp_path, invent):
    lines = [["steps", 600, "ours"], ["nesterov", False, "torch's default"], ["flip", False, "default"]]
    words = report(invent.run(tmp_path, invent.rows(levels=1), invent.record(protocol=lines))).words
    chosen, _, defaults = words.partition("Plain defaults")
    assert chosen.endswith("From the papers, their code, or ours what value source steps 600 ours ")
    assert defaults.startswith(" what value source nesterov false torch's default flip false default What it cost")


def test_each_figure_says_which_rows_it_shows(reported):
    words = " ".join(" ".join(Checker((reported / "report.html").read_text(encoding="utf-8")).text).split())
    assert (
        "data (experiment imp, metric test_error)" in words
        and "data (experiment connectivity, metric barrier)" in words
    )
