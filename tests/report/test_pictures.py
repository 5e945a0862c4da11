from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree

import pytest

from distil_nlp.report.axes import Scale, linear_ticks, log_ticks
from distil_nlp.report.bars import grouped_layer_maps, latency_svg, layer_map_svg
from distil_nlp.report.curves import loss_curves_svg
from distil_nlp.report.labels import Box, place_labels
from distil_nlp.report.markup import Markup, join, tag
from distil_nlp.report.plots import PLOT, size_quality_svg

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def curve(run: str, term: str, values: list, steps: list | None = None) -> dict:
    return {"run": run, "term": term, "steps": steps or list(range(len(values))), "values": values}


def test_markup_escapes_what_is_not_markup():
    assert tag("p", "<b>", class_='a"b') == '<p class="a&quot;b">&lt;b&gt;</p>'
    assert tag("p", tag("b", "x"), None, 1) == "<p><b>x</b>1</p>"
    assert tag("line", x1=1.0, y1=2.125, stroke_width=3, fill=None) == '<line x1="1" y1="2.12" stroke-width="3"/>'
    assert join("<", Markup("<i/>")) == "&lt;<i/>"


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.83, 0.89, 4, [0.84, 0.86, 0.88]),
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1.7, 2.1, 8, [-1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2]),
        (0, 12345, 5, [0, 5000, 10000]),
    ],
)
def test_linear_ticks(low, high, most, ticks):
    assert linear_ticks(low, high, most) == pytest.approx(ticks)


def test_log_ticks():
    assert log_ticks(8, 120, 5) == [10, 20, 50, 100]
    assert log_ticks(12, 180, 7) == [20, 30, 50, 70, 100]
    assert len(log_ticks(1e-9, 1e9, 5)) <= 5


def test_scales():
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    assert Scale(0, 1, 300, 100)(0.25) == 250


@pytest.mark.parametrize("spread", [0, 3, 20])
def test_labels_cover_neither_each_other_nor_points(spread):
    points = [(400.0 + spread * k, 200.0 + spread * (k % 2)) for k in range(6)]
    placed = place_labels(points, [150.0] * 6, [], PLOT)
    for one, other in itertools.combinations(placed, 2):
        assert one.box.overlap(other.box) == 0
    for place, (x, y) in itertools.product(placed, points):
        assert place.box.overlap(Box(x - 7, y - 7, x + 7, y + 7)) == 0
        assert place.box.outside(PLOT) == 0


def test_points_of_one_size_stand_side_by_side(movie):
    root = ElementTree.fromstring(size_quality_svg(movie))
    marks = [node for node in root if node.get("class", "").startswith("mark")]
    assert len(marks) == len(movie["rows"])
    assert len({ElementTree.tostring(mark) for mark in marks}) == len(marks)
    labels = [text for text in texts(size_quality_svg(movie)) if "ONNX" in text or "Student" in text]
    assert labels == ["Student 0.869", "ONNX fp32 0.869", "ONNX int8 0.867"]


def test_one_artefact_alone_is_a_picture(movie):
    movie["rows"] = [movie["rows"][0] | {"interval": None}]
    assert "Teacher 0.880" in texts(size_quality_svg(movie))


def test_a_row_without_the_metric_or_size_is_no_point(movie):
    movie["rows"][2]["metrics"]["accuracy"] = None
    movie["rows"][3]["size_mb"] = None
    assert not [text for text in texts(size_quality_svg(movie)) if text.startswith("Control")]


def test_a_setting_that_an_artefact_lacks_is_said(movie):
    movie["rows"][4]["latencies"] = movie["rows"][4]["latencies"][:1]
    assert texts(latency_svg(movie)).count("not measured") == 3


def test_bars_are_as_long_as_the_medians(movie):
    bars = [
        float(node.get("width"))
        for node in ElementTree.fromstring(latency_svg(movie)).iter(f"{SVG}rect")
        if node.get("class").startswith("bar")
    ]
    p50 = [
        next(entry["p50"] for entry in row["latencies"] if (entry["batch_size"], entry["threads"]) == setting)
        for setting in ((1, 1), (1, 2))
        for row in movie["rows"]
        if row["latencies"]
    ]
    assert bars[: len(p50)] == pytest.approx([bars[0] * value / p50[0] for value in p50], abs=0.02)


def test_log_scale_only_where_it_helps():
    wide = loss_curves_svg({"rows": [], "loss_curves": [curve("a", "loss", [5.0, 0.01])]})
    narrow = loss_curves_svg({"rows": [], "loss_curves": [curve("a", "loss", [0.7, 0.2])]})
    assert "log scale" in texts(wide)
    assert "log scale" not in texts(narrow)


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [1.0], [None, 2.0, None, 1.0], [-3.0, -1.0], [1e-12, 5e8], [0.5, 0.5, 0.5]]
)
def test_odd_losses_still_make_a_picture(values):
    picture = loss_curves_svg({"rows": [], "loss_curves": [curve("run", "loss", values)]})
    assert "total loss" in texts(picture)
    assert "nan" not in picture


def test_curves_without_a_value_are_no_picture():
    assert loss_curves_svg({"rows": [], "loss_curves": [curve("run", "loss", [None])]}) is None
    assert loss_curves_svg({"rows": []}) is None


def test_a_term_looks_the_same_in_every_run():
    curves = [curve("a", "logits_kl", [1, 2]), curve("b", "loss", [1, 2]), curve("b", "logits_kl", [1, 2])]
    paths = list(ElementTree.fromstring(loss_curves_svg({"rows": [], "loss_curves": curves})).iter(f"{SVG}path"))
    assert [path.get("class") for path in paths] == ["line s-1", "line s-0", "line s-1"]


def test_layer_maps_that_are_alike_share_a_picture(movie):
    assert [names for names, _ in grouped_layer_maps(movie)] == [["initial weights", "hidden_states", "attentions"]]
    movie["layer_maps"][2]["pairs"] = [[0, 0], [3, 5], [3, 6]]
    picture = layer_map_svg(movie)
    assert texts(picture).count("0") == 2
    links = [node for node in ElementTree.fromstring(picture).iter(f"{SVG}line") if node.get("class") == "link"]
    assert len(links) == 6
    assert picture.count('class="block k-teacher"') == 3 + 3
    assert picture.count('class="block k-student"') == 3 + 2


def test_an_empty_layer_map_is_no_picture():
    assert layer_map_svg({"rows": [], "layer_maps": [{"name": "hidden_states", "pairs": []}]}) is None


def test_unmatched_layers_are_shown(movie):
    movie["layer_maps"] = [{"name": "hidden_states", "pairs": [[3, 24]]}]
    movie |= {"teacher_layers": 24, "student_layers": 12}
    numbers = [text for text in texts(layer_map_svg(movie)) if text.isdigit()]
    assert numbers == [*map(str, range(1, 25)), *map(str, range(1, 13))]


def test_a_long_run_is_drawn_no_finer_than_a_pixel():
    values = [math.sin(step / 300) for step in range(50_000)]
    values[20_000] = 5.0
    picture = loss_curves_svg({"rows": [], "loss_curves": [curve("run", "loss", values)]})
    assert len(picture) < 60_000
    (drawn,) = [path.get("d") for path in ElementTree.fromstring(picture).iter(f"{SVG}path")]
    points = [tuple(map(float, point.split())) for point in drawn[1:].split("L")]
    assert points == sorted(points, key=lambda point: point[0])
    heights = [y for _, y in points]
    assert heights.count(min(heights)) == 1  # the one step of 5, at its place
    across = {x for x, y in points if y == min(heights)}.pop() - points[0][0]
    assert across / (points[-1][0] - points[0][0]) == pytest.approx(0.4, abs=2e-3)
