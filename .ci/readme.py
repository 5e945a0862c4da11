"""Puts a run's table and picture into the README: readme.py runs/movie_sentiment"""

import json
import re
import shutil
import sys
from pathlib import Path

from distil_nlp.report.tables import markdown_table

root, run = Path(__file__).parent.parent, Path(sys.argv[1])
figures = json.loads((run / "report.json").read_text(encoding="utf-8"))
said = "\n".join(f"- {sentence}" for sentence in figures["verdict"])
shown = f"{markdown_table(figures).strip()}\n\n{said}\n"
readme = root / "README.md"
text = readme.read_text(encoding="utf-8")
marked = re.compile(r"(<!-- demo: table -->\n).*?(<!-- demo: end -->)", re.DOTALL)
readme.write_text(marked.sub(lambda match: f"{match[1]}\n{shown}\n{match[2]}", text), encoding="utf-8")
shutil.copy(run / "report.svg", root / "docs" / "images" / f"{figures['name']}.svg")
