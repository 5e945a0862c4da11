"""Makes a virtual environment that also sees the packages of the running one: overlay.py FOLDER [--editable]

What is installed into it comes first. Packages installed in editable mode are seen with --editable only.
"""

import site
import sys
import sysconfig
import venv
from pathlib import Path

folder = Path(sys.argv[1])
below = [path for path in site.getsitepackages() if Path(path).is_dir()]
venv.create(folder, with_pip=True, symlinks=True)
packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
lines = [f"import site; site.addsitedir({path!r})" if "--editable" in sys.argv else path for path in below]
Path(packages, "overlay.pth").write_text("\n".join(lines) + "\n")
