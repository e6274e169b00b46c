"""An object store as a file system of pyarrow, the only form in which Ray Train takes one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from obstore.fsspec import FsspecStore
from pyarrow.fs import FSSpecHandler, PyFileSystem

from actors.storage.object_store import ObjectStorePath


def arrow_filesystem(path: ObjectStorePath) -> tuple[PyFileSystem, str]:
    """The bucket's file system and the path's name in it, both of which can be sent to other processes."""
    store: Any = FsspecStore  # its overloads want a literal scheme
    files = store(path.scheme, **path.store_options())
    return PyFileSystem(_Handler(files)), f"{path.bucket}/{path.key}"


class _Handler(FSSpecHandler):
    """Writes bytes: obstore refuses pyarrow's buffers, whose elements are signed."""

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        file = self.fs.open(path, "wb")
        write = file.write
        file.write = lambda buffer: write(bytes(buffer))
        return pa.PythonFile(file, mode="w")
