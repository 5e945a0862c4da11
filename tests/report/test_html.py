from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from distil_nlp.report import numbers
from distil_nlp.report.html import ledger_svg, render_html

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Tags, attributes, table cells and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.tables, self.words = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        self.words.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


@pytest.mark.parametrize("which", ["movie", "bare"])
def test_page_asks_nobody_for_anything(which, request):
    page = render_html(request.getfixturevalue(which))
    read = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(read.tags)
    assert not {name for name, _ in read.attributes} & {"src", "href", "srcset", "xlink:href", "action"}
    assert "url(" not in page
    assert "@import" not in page
    addresses = re.findall(r'[\w:]*="https?://[^"]*"|https?://\S*', page)
    assert set(addresses) <= {'xmlns="http://www.w3.org/2000/svg"'}


def test_the_table_shows_the_ledgers_figures(movie):
    table = Page(render_html(movie)).tables[0]
    assert table[0] == [
        *("Artefact", "accuracy", "f1", "Retention", "Parameters", "Size, MB", "Smaller"),
        *("p50, ms", "p95, ms", "Faster"),
    ]
    for cells, row in zip(table[1:], movie["rows"], strict=True):
        shown = dict(zip(table[0], cells, strict=True))
        assert shown["Artefact"] == row["label"]
        for metric, value in row["metrics"].items():
            assert shown[metric] == f"{value:.3f}"
        assert shown["Retention"] == f"{100 * row['retention']:.1f} %"
        assert shown["Size, MB"] == f"{row['size_mb']:.1f}"
        timed = row["latency_ms"]
        assert shown["p50, ms"] == (numbers.two_digits(timed["p50"]) if timed else numbers.MISSING)


def test_every_part_follows_the_json(movie):
    """Each figure is changed in the JSON to one that occurs nowhere else; the page must show it."""

    def words(ledger):
        return "\n".join(Page(render_html(ledger)).words)

    def change(path, value, shown):
        ledger = json.loads(json.dumps(movie))
        assert shown not in words(ledger)
        *way, last = path
        place = ledger
        for step in way:
            place = place[step]
        place[last] = value
        assert shown in words(ledger), path

    change(["rows", 1, "metrics", "accuracy"], 0.7531, "0.753")
    change(["rows", 5, "metrics", "f1"], 0.7642, "0.764")
    change(["rows", 1, "retention"], 0.7777, "77.8 %")
    change(["rows", 5, "times_smaller"], 77.7, "77.7\u00d7")
    change(["rows", 5, "times_faster"], 88.8, "88.8\u00d7")
    change(["rows", 2, "size_mb"], 33.3, "33.3")
    change(["rows", 0, "parameters"], 55_500_000, "55.5M")
    change(["rows", 4, "latencies", 1, "p50"], 777.0, "777 ms")
    change(["rows", 4, "latencies", 3, "p95"], 888.0, "p95 888")
    change(["gain_over_control", "control_same_start", "difference"], -0.0066, "\u22120.7, within noise")
    change(["gain_over_control", "control_same_start", "beyond_noise"], True, "beyond noise")
    change(["gain_over_control", "control_pretrained", "words"], "Never seen.", "Never seen.")
    change(["gain_split", "weights"], 0.0991, "+9.9 points")
    change(["verdict", 0], "A new verdict.", "A new verdict.")
    change(["cost", 0, "seconds"], 3599.0, "59 min 59 s")
    change(["total_seconds"], 7260.0, "2 h 01 min")
    change(["data", "rows", "test"], 9999, "9,999")
    change(["data", "majority_baseline"], 0.6543, "0.654")
    change(["layer_maps", 0, "pairs"], [[1, 1], [2, 2], [3, 5]], "1 ← 1, 2 ← 2, 3 ← 5")
    change(["environment", "packages", "torch"], "9.9.9", "9.9.9")
    change(["loss_curves", 0, "term"], "some_term", "some_term")


HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=y>\"'&"


def poison(value):
    """Puts the hostile text into every name and every free text of a ledger."""
    if isinstance(value, dict):
        return {key: poison(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [poison(entry) for entry in value]
    return HOSTILE + value if isinstance(value, str) else value


def test_hostile_names_stay_text(movie):
    ledger = poison(movie)
    for row in ledger["rows"]:
        row["metrics"][ledger["metric"]] = row["metrics"].pop("accuracy")
    ledger["environment"][HOSTILE] = HOSTILE
    ledger["gain_over_control"][HOSTILE] = ledger["gain_over_control"].pop("control_pretrained")
    page = render_html(ledger)
    read = Page(page)
    assert not {"script", "img"} & set(read.tags)
    assert not {"onerror", "src"} & {name for name, _ in read.attributes}
    assert "".join(read.words).count("<script>alert(1)</script>") > 30
    ElementTree.fromstring(ledger_svg(ledger))


def test_pictures_are_well_formed_and_described(movie):
    pictures = re.findall(r"<svg.*?</svg>", render_html(movie), flags=re.DOTALL)
    titles = []
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        titles.append(root.findtext(f"{SVG}title"))
        assert root.get("role") == "img"
        assert len(root.findtext(f"{SVG}desc")) > 20
    assert titles == [
        *("accuracy over size of the weights", "Gain over control", "Latency", "Loss curves", "Layer map")
    ]
    alone = ElementTree.fromstring(ledger_svg(movie))
    assert alone.find(f"{SVG}style") is not None
    assert "http" not in ElementTree.tostring(alone, encoding="unicode").replace(SVG[1:-1], "")


def test_missing_parts_are_left_out_or_said(bare):
    page = render_html(bare)
    assert "The run has no control" in page
    assert "Latency was not measured." in page
    assert "<svg" not in page
    assert ledger_svg(bare) is None
    assert "Loss" not in page
    assert "Cost" not in page


def test_an_empty_ledger_renders():
    page = render_html({"schema": 1, "name": "n", "task": "t", "metric": "m", "rows": []})
    assert "Nothing has been evaluated yet." in page


def test_light_and_dark(movie):
    assert "prefers-color-scheme:dark" in render_html(movie)
    assert "prefers-color-scheme:dark" in ledger_svg(movie)


def test_gain_in_the_metrics_own_unit(movie):
    gain = movie["gain_over_control"]["control_pretrained"]
    gain |= {"points": False, "difference": 0.0777}
    page = render_html(movie)
    assert "+0.078, within noise" in page
    assert "Gain of the student, accuracy" in page
