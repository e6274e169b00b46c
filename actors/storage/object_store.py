"""A file or directory in an object store, named by its URI.

Object stores have no rename and no append: a put creates or replaces a complete object, or fails and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import from_url
from typing_extensions import TypeVar

from tangoflux.errors import ConfigError, DataError, ResourceError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore, S3Credential

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az", "abfs")

URI_HELP = "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"

RETRIES: dict[str, Any] = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=5)},
}
"""Of a request that fails or breaks off: about ten seconds, two minutes if the store does not answer at all."""

STALLED_S = 30
"""A request without an answer, or an answer without another byte, for this long is retried."""

CHUNK_BYTES = 8 << 20

PARTS_AT_ONCE = 4
"""Parts of a large object uploaded in parallel; more would each take longer than ``STALLED_S`` on a slow line."""


class ObjectStorePath:
    """A file or directory in a bucket. Like a path it is joined with ``/`` and can be sent to other processes.

    Args:
        uri: ``s3://bucket/key``, ``gs://bucket/key`` or ``az://container/key`` (also ``abfs://``), for S3 and Azure
            with ``?endpoint_override=http://host:port`` and for S3 with ``region=``, unless the environment names them
            (``AWS_ENDPOINT_URL``, ``AWS_REGION``). Azure's account is in ``AZURE_STORAGE_ACCOUNT_NAME``.

    Raises:
        ConfigError: the URI is of another form.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.uri, self.scheme, self.bucket = uri, parts.scheme, parts.netloc
        self.key = unquote(parts.path).strip("/")
        self.query = parts.query
        if self.scheme not in SCHEMES or not self.bucket or not self.key:
            raise ConfigError(f"{uri} is neither a path nor the URI of an object store: give {URI_HELP} or a path")

    def __truediv__(self, name: str) -> ObjectStorePath:
        base, mark, query = self.uri.partition("?")
        return ObjectStorePath(f"{base.rstrip('/')}/{quote(name, safe='/=')}{mark}{query}")

    @property
    def parent(self) -> ObjectStorePath:
        """The directory that holds this one."""
        base, mark, query = self.uri.partition("?")
        return ObjectStorePath(f"{base.rstrip('/').rpartition('/')[0]}{mark}{query}")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    def __str__(self) -> str:
        return self.uri

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStorePath) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def put(self, content: bytes | pa.Buffer | Path) -> None:
        """Creates or replaces the object.

        Args:
            content: bytes or a local file.

        Raises:
            ResourceError: the store refuses it or does not answer.
        """
        # obstore refuses a buffer of pyarrow, whose elements are signed.
        data = memoryview(content).cast("B") if isinstance(content, pa.Buffer) else content  # pyright: ignore
        with self._explain("written"):
            obstore.put(self._store, self.key, data, max_concurrency=PARTS_AT_ONCE)

    def create(self, content: bytes) -> bool:
        """Creates the object unless it exists; of several processes that try at the same time, one gets True.

        Raises:
            ResourceError: the store does not answer.
        """
        with self._explain("written"):
            try:
                _twice(lambda: obstore.put(self._store, self.key, content, mode="create"))
            except AlreadyExistsError:
                # Ours if the answer to an earlier attempt was lost.
                return self.find() == content
        return True

    def find(self) -> bytes | None:
        """The object's content; None if it does not exist.

        Raises:
            ResourceError: the store does not answer.
        """
        with self._explain("read"):
            try:
                return bytes(obstore.get(self._store, self.key).bytes())
            except FileNotFoundError:
                return None

    def get(self) -> bytes:
        """The object's content.

        Raises:
            DataError: it does not exist.
            ResourceError: the store does not answer.
        """
        content = self.find()
        if content is None:
            raise DataError(f"{self} does not exist")
        return content

    def fetch(self, target: Path) -> None:
        """Downloads the object to a local file and creates that file's directory.

        Raises:
            ResourceError: the object does not exist, the store does not answer, or the disk is full.
        """
        with self._explain(f"copied to {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            stream = obstore.get(self._store, self.key).stream(min_chunk_size=CHUNK_BYTES)
            with target.open("wb") as file:
                file.writelines(stream)

    def sizes(self) -> dict[str, int]:
        """Bytes of all objects below this directory, by their path relative to it.

        Raises:
            ResourceError: the store does not answer.
        """
        with self._explain("listed"):
            found = obstore.list(self._store, self.key).collect()
        return {item["path"][len(self.key) + 1 :]: item["size"] for item in found}

    def size(self) -> int | None:
        """The object's bytes; None if it does not exist.

        Raises:
            ResourceError: the store does not answer.
        """
        found = self._head()
        return found["size"] if found else None

    def modified(self) -> float:
        """When the object was last put, by the store's clock, in unix seconds; 0 if it does not exist.

        Raises:
            ResourceError: the store does not answer.
        """
        found = self._head()
        return found["last_modified"].timestamp() if found else 0.0

    def delete(self) -> None:
        """Deletes the object if it exists.

        Raises:
            ResourceError: the store does not answer.
        """
        with self._explain("deleted"), suppress(FileNotFoundError):
            _twice(lambda: obstore.delete(self._store, self.key))

    def store_options(self) -> dict[str, Any]:
        """How to reach the bucket, as obstore's constructors take it."""
        query = dict(parse_qsl(self.query))
        endpoint = query.get("endpoint_override")
        if endpoint and "://" not in endpoint:
            endpoint = f"{query.get('scheme', 'https')}://{endpoint}"
        return {
            "client_options": {"allow_http": True, "timeout": "1 hour", "read_timeout": f"{STALLED_S} s"},
            "retry_config": RETRIES,
            **({"endpoint": endpoint} if endpoint else {}),
            **(_aws_options(query.get("region")) if self.scheme == "s3" else {}),
        }

    @property
    def _store(self) -> ObjectStore:
        return _open_store(self.scheme, self.bucket, self.query)

    def _head(self) -> ObjectMeta | None:
        with self._explain("read"):
            try:
                return obstore.head(self._store, self.key)
            except FileNotFoundError:
                return None

    @contextmanager
    def _explain(self, action: str) -> Generator[None]:
        """Turns a request's error into one line with the object and the cause."""
        try:
            yield
        except (BaseError, OSError) as error:
            missing = any(code in str(error) for code in ("NoSuchBucket", "ContainerNotFound"))
            cause = f"there is no bucket {self.bucket}" if missing else _cause(error)
            raise ResourceError(f"{self} cannot be {action}: {cause}; check the object store, then resume") from None


Location = Path | ObjectStorePath
"""A file or directory on a disk or in an object store."""

Directory = TypeVar("Directory", Path, ObjectStorePath, default=Path)
"""One of the two, for classes whose methods return paths of the same kind as they were given."""


def parse_path(text: str) -> Location:
    """A local path or ``file://`` URI as a path, any other URI as an object store path.

    Raises:
        ConfigError: the URI is of another kind.
    """
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return ObjectStorePath(text) if ":/" in text else Path(text).expanduser()


@lru_cache(maxsize=16)
def _open_store(scheme: str, bucket: str, query: str) -> ObjectStore:
    options = ObjectStorePath(f"{scheme}://{bucket}/-?{query}").store_options()
    return from_url(f"{scheme}://{bucket}", **options)


def _aws_options(region: str | None) -> dict[str, Any]:
    import boto3  # slow, and rarely needed
    from botocore.exceptions import BotoCoreError

    try:
        region = region or boto3.Session().region_name
    except BotoCoreError as error:
        raise ConfigError(f"AWS's configuration cannot be used: {error}") from None
    return {"credential_provider": _aws_credentials, **({"region": region} if region else {})}


def _aws_credentials() -> S3Credential:
    """From where AWS's own tools look: environment, profiles, single sign-on, the machine's role."""
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()()


def _twice(request: Callable[[], T]) -> T:
    """For requests that obstore does not retry after a timeout, as it does not know that repeating them is safe."""
    try:
        return request()
    except GenericError:
        return request()


def _cause(error: Exception) -> str:
    """The message in one line, without obstore's dump of its data structures."""
    return " ".join(str(error).partition("\n\nDebug source:")[0].split())
