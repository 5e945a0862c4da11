"""The latency picture stays within its page, whatever the numbers of threads and the times."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from distil_nlp.report.bars import latency_svg
from distil_nlp.report.labels import text_width
from distil_nlp.report.svg import WIDTH

SVG = "{http://www.w3.org/2000/svg}"


def timed(label: str, kind: str, ms: float, threads: list[int]) -> dict:
    settings = [(size, count) for size in (1, 16) for count in threads]
    entries = [
        {"p50": ms * size / count, "p95": 1.2 * ms * size / count, "batch_size": size, "threads": count}
        for size, count in settings
    ]
    return {"name": label, "label": label, "kind": kind, "latencies": entries}


@pytest.mark.parametrize("ms", [0.02, 19.0, 1117.0])
@pytest.mark.parametrize("threads", [[1], [1, 2], [1, 2, 4], [1, 2, 4, 8, 16]])
def test_bars_and_figures_have_room(threads: list[int], ms: float) -> None:
    rows = [timed("Teacher, ensemble of 12", "teacher", ms, threads), timed("ONNX int8", "export", ms / 8, threads)]
    root = ElementTree.fromstring(latency_svg({"rows": rows}))
    panels = [node for node in root.iter(f"{SVG}text") if (node.text or "").startswith("Batch size")]
    assert len(panels) == 2 * len(threads)
    bars = [node for node in root.iter(f"{SVG}rect") if node.get("class") == "bar k-teacher"]
    assert max(float(bar.get("width")) for bar in bars) > 60
    height = float(root.get("viewBox").split()[3])
    assert max(float(node.get("y")) for node in root.iter(f"{SVG}text")) < height
    lefts = sorted({float(panel.get("x")) for panel in panels})
    rights = [*(left - 10 for left in lefts[1:]), WIDTH]
    for node in root.iter(f"{SVG}text"):
        words = "".join(node.itertext())
        if "p95" in words:
            start = float(node.get("x"))
            column = max(place for place, left in enumerate(lefts) if left < start)
            assert start + text_width(words) <= rights[column], words


def test_a_last_line_may_have_one_panel() -> None:
    root = ElementTree.fromstring(latency_svg({"rows": [timed("Student", "student", 2.0, [1, 2, 4])]}))
    places = {node.text: (node.get("x"), node.get("y")) for node in root.iter(f"{SVG}text") if node.text}
    assert places["Batch size 1, 4 threads"][0] == places["Batch size 1, 1 thread"][0]
    assert places["Batch size 1, 1 thread"][1] == places["Batch size 1, 2 threads"][1]
    assert len({place for words, place in places.items() if words.startswith("Batch size")}) == 6
