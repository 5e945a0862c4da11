"""Writes the versions that a fresh environment gets today: constraints.py TORCH EXTRAS FILE

torch stays at the version given. Local version labels (+cpu) and the packages of one kind of accelerator are
left out, so that one file serves every machine.
"""

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

torch, extras, file = sys.argv[1:]
left_out = re.compile(r"^(nvidia-|cuda-|triton\b|distil[-_]nlp\b)", re.IGNORECASE)

with tempfile.TemporaryDirectory(prefix="constraints-") as folder:
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [str(Path(folder, "bin", "python")), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "install", f"torch=={torch}"], check=True)
    subprocess.run([*pip, "install", f"torch=={torch}", f".[{extras}]"], check=True)
    frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout

python = f"{sys.version_info.major}.{sys.version_info.minor}"
lines = [
    f"# The versions that the tests ran with, on Python {python}. Renew with: make constraints",
    "# No hashes: torch's builds differ from device to device.",
    *(re.sub(r"\+\S+$", "", line) for line in frozen.splitlines() if not left_out.match(line)),
]
Path(file).write_text("\n".join(lines) + "\n")
