"""Write a file so that what stands under its name is always whole."""

import os
from pathlib import Path


def write_aside(path: Path, data: bytes) -> None:
    """Write beside `path`, sync, rename: a killed writer leaves nothing under the final name."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
