"""A directory in an object store, by its URI. Object stores have no rename and no append: an object is put whole."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
import pyarrow as pa
import pyarrow.fs as pafs
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import GCSStore, S3Store

from tangoflux.errors import ConfigError, DataError, ResourceError

T = TypeVar("T")

PAUSES_S = (0.5, 2.0)
"""Between attempts. The SDK's own do not cover all: a read that meets an error longer than itself is not repeated."""

ATTEMPTS = 3
"""Of the AWS SDK in each of ours, with its own growing pauses."""

CONNECT_S = 10.0
"""Until a connection must stand. A request without an answer is cut by the AWS SDK after 3 s, and tried again."""

GCS_RETRY_S = 20
"""So long requests to Google's store are tried."""

COPY_BYTES = 8 << 20

SCHEMES = ("s3", "gs")


class ObjectStorePath:
    """A prefix in a bucket. Like a path it is joined with ``/`` and can be sent to other processes.

    Args:
        uri: ``s3://bucket/prefix`` or ``gs://bucket/prefix``; for S3 with ``?endpoint_override=http://host:port`` and
            ``region=`` where the environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``) does not say them.

    Raises:
        ConfigError: it is no such URI.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.uri, self.scheme, self.bucket = uri, parts.scheme, parts.netloc
        self.prefix = unquote(parts.path).strip("/")
        self.query = dict(parse_qsl(parts.query))
        if self.scheme not in SCHEMES or not self.bucket or not self.prefix:
            raise ConfigError(f"{uri} is no place for a run: give s3://bucket/prefix, gs://bucket/prefix or a path")

    def __truediv__(self, name: str) -> ObjectStorePath:
        base, mark, query = self.uri.partition("?")
        return ObjectStorePath(f"{base.rstrip('/')}/{name}{mark}{query}")

    @property
    def parent(self) -> ObjectStorePath:
        """The prefix that this one is directly below."""
        base, mark, query = self.uri.partition("?")
        return ObjectStorePath(f"{base.rstrip('/').rpartition('/')[0]}{mark}{query}")

    def __str__(self) -> str:
        return self.uri

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStorePath) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "filesystem"}

    @property
    def name(self) -> str:
        """The last part of the prefix."""
        return self.prefix.rpartition("/")[2]

    @property
    def path(self) -> str:
        """As pyarrow's file systems take it."""
        return f"{self.bucket}/{self.prefix}"

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        """The store, with retries within bounds."""
        if self.scheme == "gs":
            return pafs.FileSystem.from_uri(f"gs://{self.bucket}?retry_limit_seconds={GCS_RETRY_S}")[0]
        scheme, _, endpoint = (self._endpoint() or "https://").partition("://")
        options = {"endpoint_override": endpoint, "region": self.query.get("region")}
        return pafs.S3FileSystem(
            scheme=scheme,
            connect_timeout=CONNECT_S,
            allow_delayed_open=True,  # so that a small object is one request
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            **{name: value for name, value in options.items() if value},
        )

    def put(self, name: str, content: bytes | pa.Buffer | Path) -> None:
        """Makes an object, or replaces it; it is there whole or not at all.

        Args:
            content: bytes or a local file.

        Raises:
            ResourceError: the store does not take it.
        """

        # Not pyarrow.fs.copy_files, which tells no error of an object that is put when its stream is closed.
        def put() -> None:
            with self.filesystem.open_output_stream(self._path(name)) as stream:
                if isinstance(content, Path):
                    with content.open("rb") as file:
                        shutil.copyfileobj(file, stream, COPY_BYTES)
                else:
                    stream.write(content)

        self._try(put, name, "written")

    def create(self, name: str, content: bytes) -> bool:
        """Makes an object unless there is one; of several that try at once, one is told True.

        Raises:
            ResourceError: the store does not answer.
        """
        # pyarrow has no conditional requests.
        try:
            obstore.put(self._conditional_store(), f"{self.prefix}/{name}", content, mode="create")
        except AlreadyExistsError:
            # Ours, where an answer was lost and the request repeated.
            return self.find(name) == content
        except FileNotFoundError:
            raise ResourceError(f"{self._uri_of(name)} cannot be written: there is no bucket {self.bucket}") from None
        except (BaseError, OSError) as error:
            raise self._failed(name, "written", error) from None
        return True

    def find(self, name: str) -> bytes | None:
        """The content of an object; None without one.

        Raises:
            ResourceError: the store does not answer.
        """

        def read() -> bytes | None:
            try:
                with self.filesystem.open_input_file(self._path(name)) as file:
                    return file.read()
            except FileNotFoundError:
                return None

        return self._try(read, name, "read")

    def get(self, name: str) -> bytes:
        """The content of an object.

        Raises:
            DataError: there is none.
            ResourceError: the store does not answer.
        """
        content = self.find(name)
        if content is None:
            raise DataError(f"{self._uri_of(name)} is not there")
        return content

    def sizes(self, below: str = "") -> dict[str, int]:
        """Bytes of all objects by name, or of those ``below`` a name.

        Raises:
            ResourceError: the store does not answer.
        """
        selector = pafs.FileSelector(self._path(below), allow_not_found=True, recursive=True)
        found = self._try(lambda: self.filesystem.get_file_info(selector), below, "listed")
        start = len(self.path) + 1
        return {file.path[start:]: file.size for file in found if file.type == pafs.FileType.File}

    def size(self, name: str) -> int | None:
        """Bytes of an object; None without one.

        Raises:
            ResourceError: the store does not answer.
        """
        return self._info(name).size

    def changed(self, name: str) -> float:
        """When an object was last put, by the store's own clock, in unix seconds; 0 without one.

        Raises:
            ResourceError: the store does not answer.
        """
        when = self._info(name).mtime
        return when.timestamp() if when else 0.0

    def delete(self, name: str) -> None:
        """Removes an object, if it is there.

        Raises:
            ResourceError: the store does not answer.
        """

        def delete() -> None:
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(self._path(name))

        self._try(delete, name, "deleted")

    def fetch(self, name: str, target: Path) -> None:
        """Copies an object to a local file, whose directory is made.

        Raises:
            ResourceError: the store does not answer, or the disk is full.
        """
        target.parent.mkdir(parents=True, exist_ok=True)

        def fetch() -> None:
            with self.filesystem.open_input_file(self._path(name)) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, COPY_BYTES)

        self._try(fetch, name, f"copied to {target}")

    def _info(self, name: str) -> pafs.FileInfo:
        return self._try(lambda: self.filesystem.get_file_info(self._path(name)), name, "read")

    def _uri_of(self, name: str) -> str:
        return str(self / name if name else self)

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}".rstrip("/")

    def _try(self, request: Callable[[], T], name: str, what: str) -> T:
        """Makes a request that may be made twice; its last error is one line that names the object and the cause."""
        for pause_s in PAUSES_S:
            try:
                return request()
            except OSError:
                time.sleep(pause_s)
        try:
            return request()
        except OSError as error:
            raise self._failed(name, what, error) from None

    def _failed(self, name: str, what: str, error: Exception) -> ResourceError:
        cause = str(error).splitlines()[0]
        return ResourceError(f"{self._uri_of(name)} cannot be {what}: {cause}; look after the store, then resume")

    def _conditional_store(self) -> GCSStore | S3Store:
        retries: Any = {"max_retries": 2 * ATTEMPTS, "retry_timeout": timedelta(seconds=GCS_RETRY_S)}
        if self.scheme == "gs":
            return GCSStore(self.bucket, retry_config=retries)
        endpoint = self._endpoint()
        options: Any = {"endpoint": endpoint, "region": self.query.get("region")}
        return S3Store(
            self.bucket,
            client_options={"allow_http": (endpoint or "").startswith("http://"), "timeout": "10s"},
            retry_config=retries,
            **{name: value for name, value in options.items() if value},
        )

    def _endpoint(self) -> str | None:
        """URL of the S3 server; None for Amazon's."""
        endpoint = self.query.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint is None or "://" in endpoint:
            return endpoint
        return f"{self.query.get('scheme', 'https')}://{endpoint}"


Location = Path | ObjectStorePath
"""A file or directory on a disk or in an object store."""


def parse_path(text: str) -> Location:
    """A local path or ``file://`` URI as a path, any other URI as a place.

    Raises:
        ConfigError: a URI of another kind.
    """
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return ObjectStorePath(text) if ":/" in text else Path(text).expanduser()
