"""Reading of small files that an operator names, such as certificates and tokens.

They are read again while the server runs. A pipe in their place would keep whoever reads it waiting for ever, and a
device may never end.
"""

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 1 << 20


def read_small(path: Path) -> bytes:
    """The content of a regular file, or of one that a link leads to.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `MAX_BYTES`.
    """
    # Without waiting, because a pipe opens only when somebody writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"Larger than {MAX_BYTES} bytes", str(path))
    return content
