# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk image with programs of this machine, for a guest that has none."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path


def _libraries(program):
    """What the dynamic linker would load, itself first."""
    listing = subprocess.run(["ldd", program], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    paths = [Path(path) for path in re.findall(r"/\S+", listing)]
    return sorted(paths, key=lambda path: not path.name.startswith("ld-"))


def tools_image(build, name, *sources):
    """The image of this name with these files; made when they are newer.

    The linker is /ld.so, libraries are in /lib.
    """
    image = build.work / f"{name}.img"
    with build.locked():
        if image.exists() and all(source.stat().st_mtime
                                  < image.stat().st_mtime
                                  for source in sources):
            return image
        with tempfile.TemporaryDirectory(dir=build.work) as directory:
            staging = Path(directory)
            (staging / "lib").mkdir()
            for source in sources:
                shutil.copy(source, staging / source.name)
                if not os.access(source, os.X_OK):
                    continue
                linker, *libraries = _libraries(source)
                shutil.copy(linker, staging / "ld.so")
                for library in libraries:
                    shutil.copy(library, staging / "lib")
            partial = image.with_suffix(".tmp")
            partial.unlink(missing_ok=True)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-d", staging,
                            partial, "256m"], check=True)
            partial.rename(image)
    return image
