from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from metaq.errors import ConfigError
from metaq.lab.train import EpochRecord
from metaq.report import page
from metaq.report.subject import Accuracy, Filters, Histogram, Layer, Share, Subject, TensorFacts

from .page_checks import check, parsed

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--",
    "</title></style></svg><b>",
    "{{ 7 * 7 }}",
    "a\x00\x1b[31m\u202eb",
    "&lt;i&gt;",
)


def record(epoch, **values):
    usual = {
        "loss": 1.0 / epoch,
        "float_accuracy": 98.0,
        "quantized_accuracy": 97.0,
        "phi_bits": 100.0,
        "bits": 1000.0 / epoch,
        "bits_per_weight": 1.0,
        "estimated_bytes": 125.0 / epoch,
        "distance": 0.1,
        "frozen": 0,
        "strength": 1e-5,
        "seconds": 1.0,
    }
    return EpochRecord(epoch=epoch, **{**usual, **values})


def tensor(name="conv1.weight", **values):
    usual = {
        "shape": (2, 1, 5, 5),
        "dtype": "float32",
        "kind": "quantised",
        "coder": "small",
        "elements": 50,
        "zeros": 20,
        "bytes": 80,
        "stored_bytes": 80,
        "buckets": 9,
        "buckets_used": 5,
        "step_size": 0.125,
        "entropy_bits": 100.0,
        "live_rows": (2, 2),
        "live_columns": (1, 1),
    }
    return TensorFacts(name=name, **{**usual, **values})


def complete(name="run", hostile="conv1.weight"):
    """A subject with all its parts; `hostile` stands wherever a file decides what stands there."""
    rng = np.random.default_rng(0)
    return Subject(
        name=name,
        title=f"lenet5 on {hostile}",
        sizes={"bytes": 100, "float_bytes": 200, "ratio": 2.0, "weights": 50, "bits_per_weight": 16.0},
        after=Accuracy(percent=99.0, what="weights restored from the file, on the test images"),
        before=Accuracy(percent=99.5, what="the same network trained as usual, on the test images"),
        seconds=61.0,
        goal="at most 9,000 bytes",
        kept="0.9988",
        commands=[("Weights in Python", f"metaq.load({hostile!r})")],
        layers=[
            Layer(
                name=hostile,
                kind="Conv2d",
                output=(2, 24, 24),
                weights=50,
                multiply_adds=28800,
                live_multiply_adds=17280,
                bytes=80,
            ),
            Layer(
                name="norm",
                kind="BatchNorm2d",
                output=(2, 24, 24),
                weights=4,
                multiply_adds=None,
                live_multiply_adds=None,
                bytes=None,
            ),
        ],
        records=[record(epoch) for epoch in range(1, 8)],
        kept_epoch=6,
        tensors=[tensor(hostile), tensor("fc.bias", shape=(3,), live_columns=None), tensor("x", tied_to=hostile)],
        shares=[
            Share(label=hostile, bytes=80, is_tensor=True),
            Share(label="header", bytes=16, is_tensor=False),
            Share(label="checksums", bytes=4, is_tensor=False),
        ],
        sharing="Measured.",
        histograms=[
            Histogram(
                name=hostile,
                centers=np.array([-1.0, 0.0, 1.0]),
                counts=np.array([3, 40, 7]),
                width=1.0,
                buckets_per_bar=1,
                latent=rng.normal(size=50),
            )
        ],
        filters=Filters(
            layer=hostile,
            after=rng.normal(size=(2, 1, 5, 5)),
            before=rng.normal(size=(2, 1, 5, 5)),
            units=2,
            live_units=2,
            reads="kernels",
        ),
        folded={hostile: (10, 7)},
        environment={"command": f"metaq train --out {hostile}", "python": hostile, "cores": 2},
        config={"net": hostile, "optimizer": {"name": "adam"}},
        metadata={hostile: hostile},
        missing={"latent": f"{hostile} is missing"},
        notes={"curves": hostile},
    )


def test_a_page_is_accessible_in_structure_and_asks_for_nothing_elsewhere():
    root = check(page.render([complete()]))
    text = root.text
    figures = ("100 bytes", "2.0 ×", "99.00 %", "99.50 %", "61 s", "2×1×5×5", "40.0 %", "2 of 2", "7 of 10")
    for figure in (*figures, "at most 9,000 bytes", "0.9988", "17.3 k", "2×24×24", "28,800", "17,280"):
        assert figure in text
    assert "metaq.load('conv1.weight')" in text
    assert "metaq train --out conv1.weight" in text
    assert [table.all("caption")[0].text for table in root.all("table")]


def test_a_comparison_is_accessible_in_structure_and_shows_both():
    first, second = complete("first"), replace(complete("second"), config={"net": "other"}, kept_epoch=3)
    root = check(page.render([first, second]))
    assert "first" in root.text
    assert "second" in root.text
    headers = [header.text for header in root.all("th")]
    assert headers.index("bytes, A") < headers.index("bytes, B")
    settings = [row.text for table in root.all("table") for row in table.all("tr") if "optimizer.name" in row.text]
    assert settings == ["optimizer.nameadam–"]


def test_accuracies_on_other_images_are_not_subtracted():
    first = complete("first")
    second = replace(first, before=Accuracy(percent=98.0, what="float weights in epoch 3, on the validation images"))
    for other, difference in ((first, "the same"), (second, "of other images")):
        root = parsed(page.render([first, other]))
        (row,) = (row for row in root.all("tr") if row.text.startswith("accuracy before"))
        assert row.all("td")[-1].text == difference


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("count", [1, 2])
def test_names_and_settings_from_files_stay_text(name, count):
    harmless = parsed(page.render([complete()] * count))
    hostile = check(page.render([complete(name, hostile=name)] * count))
    # Only these two depend on how long a name is, and where it has dots.
    one, other = ([each for each in root.all() if each.name not in ("text", "wbr")] for root in (harmless, hostile))
    assert not [each for each in hostile.all("wbr") if each.attributes]
    assert [(e.name, sorted(e.attributes)) for e in other] == [(e.name, sorted(e.attributes)) for e in one]
    assert "\x00" not in hostile.text
    assert "\u202e" not in hostile.text
    values = [value for element in hostile.all() for value in element.attributes.values() if value]
    assert not [value for value in values if "\x00" in value or "\u202e" in value]
    assert "49" not in hostile.all("h1")[0].text


def test_a_subject_that_knows_nothing_gives_a_page_of_sentences():
    reasons = {
        part: f"Why there is no {part}."
        for part in ("file", "accuracy", "before", "seconds", "curves", "bytes", "tensors", "weights", "filters")
    }
    bare = Subject(name="run", title="run", missing=reasons)
    for subjects in ([bare], [bare, complete()], [bare, bare]):
        root = check(page.render(subjects))
        assert all(reason in root.text for reason in reasons.values())


def test_what_is_there_comes_before_what_is_missing():
    reason = "There are no curves: a file has no metrics of its training."
    known = replace(complete(), records=[], missing={"curves": reason})
    root = check(page.render([known]))
    headings = [heading.text for heading in root.all("h2")]
    assert "Curves" not in headings
    assert headings[-1] == "What is not here, and why"
    assert root.text.index("Where every byte went") < root.text.index(reason)
    links = [link.text for link in root.all("nav")[0].all("a")]
    assert links == ["Bytes", "Layers", "Tensors", "Weights", "First layer", "Use it", "Reproduce", "Not here"]


def test_what_is_missing_is_one_paragraph_in_which_no_sentence_stands_twice():
    reasons = {"curves": "No curves.", "seconds": "No curves.", "accuracy": "No accuracy."}
    for subjects, count in (([complete()], 1), ([complete()] * 2, 2)):
        root = check(page.render([replace(subject, missing=reasons) for subject in subjects]))
        (section,) = (each for each in root.all("section") if each.attributes.get("id") == "missing")
        paragraphs = [each.text for each in section.all("p")]
        assert len(paragraphs) == count
        assert all(text.endswith("No curves. No accuracy.") for text in paragraphs)


def test_commands_are_whole_however_long_they_are():
    command = "metaq train " + "--set a=1 " * 100
    root = check(page.render([replace(complete(), environment={"command": command})]))
    assert command in [code.text for code in root.all("code")]


def test_a_comparison_says_better_and_worse_and_draws_both_on_the_same_axes():
    first = complete("first")
    smaller = {"bytes": 50, "float_bytes": 200, "ratio": 4.0, "weights": 50, "bits_per_weight": 8.0}
    worse = Accuracy(percent=98.0, what="weights restored from the file, on the test images")
    root = check(page.render([first, replace(complete("second"), sizes=smaller, after=worse)]))
    rows = {row.all("th")[0].text: row.all("td")[-1].text for row in root.all("tr") if row.all("td")}
    assert rows["file, bytes"] == "2.0 times smaller, better"
    assert rows["ratio"] == "2.0 times larger, better"
    assert rows["tensors, bytes"] == "the same"
    assert rows["accuracy, %"] == "1.00 points lower, worse"
    sides = [div.attributes["class"] for div in root.all("div") if "side " in (div.attributes.get("class") or "")]
    assert sides == ["side a", "side b"] * (len(sides) // 2)


def test_epochs_without_finite_figures_are_left_out_of_the_curves():
    nan = float("nan")
    records = [record(1, loss=nan), record(2, loss=nan, estimated_bytes=0.0), record(3, loss=nan, distance=nan)]
    root = check(page.render([replace(complete(), records=records)]))
    titles = [heading.text for heading in root.all("h3")]
    assert "Validation accuracy, %" in titles
    assert "Training loss, nats" not in titles
    alternatives = [image.attributes["alt"] for image in root.all("img")]
    assert [text.partition(".")[0] for text in alternatives[:4]] == [
        "Validation accuracy, %", "Size, bytes", "Price of a bit, λ", "Distance of latent weights from the grid",
    ]  # fmt: skip


def test_thousands_of_tensors_and_epochs_are_cut_with_a_sentence():
    many = replace(
        complete(),
        tensors=[tensor(f"layer{number}") for number in range(page.MOST_ROWS + 5)],
        records=[record(epoch) for epoch in range(1, page.MOST_ROWS + 5)],
    )
    root = parsed(page.render([many]))
    captions = [caption.text for caption in root.all("caption")]
    assert f"{page.MOST_ROWS + 5} tensors, the first {page.MOST_ROWS} of them" in captions
    assert max(len(table.all("tr")) for table in root.all("table")) == page.MOST_ROWS + 1


def test_cells_carry_what_they_are_sorted_by():
    root = parsed(page.render([complete()]))
    (table,) = (table for table in root.all("table") if table.attributes.get("class") == "sortable")
    for row in table.all("tbody")[0].all("tr"):
        assert all("data-value" in cell.attributes for cell in row.all("th", "td"))


def test_the_figures_are_ready_for_json():
    assert json.loads(json.dumps(complete().to_dict()))["tensors"][0]["bytes"] == 80


def test_no_more_than_two_are_compared():
    with pytest.raises(ConfigError, match="one or two"):
        page.render([complete()] * 3)


def test_a_report_is_known_by_its_beginning(tmp_path):
    report, other = tmp_path / "report.html", tmp_path / "other.html"
    report.write_text(page.render([complete()]))
    other.write_text("<!doctype html><title>mine</title>")
    assert page.is_report(report)
    assert not page.is_report(other)
