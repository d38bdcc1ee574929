"""The memory of large pictures: that of one at a time, however many callers, threads and versions decode some."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# In a process of its own: what other tests took would hide it.
PROGRAM = """
import io, sys, threading
import numpy as np
from PIL import Image
from frostline_server.runtime.picture_encoder import PictureEncoder
from frostline_server.runtime.row_schema import Image as Column, RowSchema

def peak_kib():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

file = io.BytesIO()
# 12 million pixels with opacity: every step of decoding holds another copy of 48 MB.
Image.new("RGBA", (4000, 3000), (1, 2, 3, 128)).save(file, "PNG", compress_level=1)
column = Column(name="image", kind="image", size=(32, 32))
pictures = np.empty(2, object)
pictures[:] = [file.getvalue()] * 2
if sys.argv[1] == "pixels":
    for row in range(2):
        pictures[row] = np.broadcast_to(np.array([1, 2, 3, 128], np.uint8), (3000, 4000, 4)).copy()
alone = threading.Lock()
encoders = [PictureEncoder(RowSchema(columns=(column,)), column, 2, alone) for _ in range(2)]
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak_kib()
threads = [threading.Thread(target=encoders[at % 2].encode, args=([pictures],)) for at in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print((peak_kib() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory's peak is asked of Linux")
@pytest.mark.parametrize("kind", ["files", "pixels"])
def test_large_pictures_of_several_versions_take_the_memory_of_one(kind: str) -> None:
    command = [sys.executable, "-c", PROGRAM, kind]
    path = f"{ROOT}:{ROOT / 'server'}"
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # Five copies of 46 MiB, and what else the process needs meanwhile.
    assert int(done.stdout) < 300
