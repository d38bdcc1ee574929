"""Environments for clients whose packages do not go with those of this one."""

import subprocess
import sys
from pathlib import Path


def python_with(packages: Path) -> Path:
    """A Python with the packages of a list, installed on first use in a hidden folder beside the list.

    Args:
        packages: names each of them with its version; what they depend on is not installed by itself.

    Raises:
        subprocess.CalledProcessError: they cannot be installed.
        subprocess.TimeoutExpired: it took minutes.
    """
    folder = packages.with_name(f".{packages.stem}")
    python, installed, wanted = folder / "bin" / "python", folder / "installed.txt", packages.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=100)
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(packages)]
        subprocess.run(command, check=True, capture_output=True, timeout=280)
        installed.write_text(wanted)
    return python
