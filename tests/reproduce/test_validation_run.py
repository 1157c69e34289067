"""A run on held-out training images: its errors are called validation errors wherever a person reads them."""

import json

from typed_command import SMALL, reproduce

from sparselt.cli.main import main


def test_errors_on_held_out_images_are_named_as_such_in_terminal_page_figures_and_record(tmp_path):
    held_out = [*SMALL[: SMALL.index("--experiments")], "validation_count=200", *SMALL[SMALL.index("--experiments") :]]
    result = reproduce(*held_out, cwd=tmp_path, check=True)
    assert "All errors are of validation images" in " ".join(result.stdout.split())
    (folder,) = (tmp_path / "runs").glob("digits_resnet8-smoke-*")
    record = json.loads((folder / "record.json").read_text())
    assert (record["evaluation"]["split"], record["evaluation"]["count"]) == ("validation", 200)
    assert ["validation_count", 200, "ours"] in record["protocol"]
    page = (folder / "report.html").read_text()
    assert "Evaluated on 200 validation images, held out of the training set" in page
    drawn = (folder / "figures" / "error_against_density.svg").read_text()
    for text in (page, drawn):
        assert "alidation error" in text
        assert not any(name in text for name in ("test error", "Test error", "test example"))
    markdown = tmp_path / "findings.md"
    main(["report", str(folder), "--markdown", str(markdown)])
    assert "validation examples" in markdown.read_text()
