from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.storage.arrow_filesystem import arrow_filesystem
from actors.storage.object_store import ObjectStorePath, parse_path
from tangoflux.errors import ConfigError, DataError, ResourceError
from tests.object_store import BlobServer, Fault, Proxy, running


def test_objects_are_put_found_listed_and_deleted(bucket_dir: ObjectStorePath, tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(bucket_dir / "part"))
    (sent / "a" / "b").put(b"one")
    (tmp_path / "file").write_bytes(bytes(7 << 20))
    (bucket_dir / "large").put(tmp_path / "file")
    assert bucket_dir.sizes() == {"part/a/b": 3, "large": 7 << 20}
    assert (bucket_dir / "part").sizes() == {"a/b": 3}
    assert (bucket_dir / "part/a/b").get() == b"one"
    assert (bucket_dir / "nothing").find() is (bucket_dir / "nothing").size() is None
    assert (bucket_dir / "large").size() == 7 << 20
    (bucket_dir / "large").fetch(tmp_path / "below" / "copy")
    assert (tmp_path / "below" / "copy").stat().st_size == 7 << 20
    for _ in range(2):
        (sent / "a/b").delete()
    assert list(bucket_dir.sizes()) == ["large"]
    with pytest.raises(DataError, match=r"run/\S+/nothing\?endpoint_override=\S+ does not exist"):
        (bucket_dir / "nothing").get()


def test_names_may_hold_any_character(bucket_dir: ObjectStorePath) -> None:
    names = ["beta=2000", "a b", "100%25", "ä?#&+"]
    for name in names:
        (bucket_dir / name).put(name.encode())
        assert (bucket_dir / name).name == name
        assert ObjectStorePath(str(bucket_dir / name)).get().decode() == name
    assert set(bucket_dir.sizes()) == set(names)


def test_of_two_that_create_an_object_one_does(bucket_dir: ObjectStorePath) -> None:
    assert (bucket_dir / "lock").create(b"first")
    assert not (bucket_dir / "lock").create(b"second")
    assert (bucket_dir / "lock").get() == b"first"


REQUESTS: dict[str, Callable[[ObjectStorePath], object]] = {
    "PUT": lambda path: path.put(bytes(100_000)),
    "GET": lambda path: path.get(),
    "HEAD": lambda path: path.size(),
    "POST": lambda path: path.delete(),
}


@pytest.mark.parametrize("fault", ["error", "slow", "cut", "answer lost"])
def test_a_failed_request_is_repeated(bucket_dir: ObjectStorePath, proxy: Proxy, fault: Fault) -> None:
    for method, request in REQUESTS.items():
        proxy.spoil(fault, methods=(method,))
        request(bucket_dir / "a")
        assert proxy.spoilt == 1
        assert (bucket_dir / "a").find() == (None if method == "POST" else bytes(100_000))


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_download_that_breaks_off_is_resumed(
    bucket_dir: ObjectStorePath, proxy: Proxy, tmp_path: Path, attempts: int
) -> None:
    content = bytes(range(250)) * 4000
    (bucket_dir / "a").put(content)
    faults: list[Fault] = ["answer cut"] * attempts
    proxy.spoil(*faults, methods=("GET",))
    (bucket_dir / "a").fetch(tmp_path / "a")
    assert proxy.spoilt == attempts
    assert (tmp_path / "a").read_bytes() == content


@pytest.mark.parametrize("fault", ["error", "slow", "cut", "answer lost"])
def test_an_object_whose_creation_was_not_answered_is_recognised_as_ones_own(
    bucket_dir: ObjectStorePath, proxy: Proxy, fault: Fault
) -> None:
    proxy.spoil(fault, methods=("PUT",))
    assert (bucket_dir / "lock").create(b"mine")
    assert proxy.spoilt == 1


def test_a_store_that_fails_for_good_ends_in_one_line_with_uri_and_cause(
    bucket_dir: ObjectStorePath, proxy: Proxy
) -> None:
    for request in REQUESTS.values():
        started = time.monotonic()
        faults: list[Fault] = ["error"] * 100
        proxy.spoil(*faults)
        with pytest.raises(ResourceError) as error:
            request(bucket_dir / "a")
        assert str(error.value).startswith(f"{bucket_dir}".replace("?", "/a?") + " cannot be ")
        assert "500 Internal Server Error" in str(error.value)
        assert str(error.value).count("\n") == 0 and len(str(error.value)) < 500
        assert proxy.spoilt < 20
        assert time.monotonic() - started < 30


def test_a_run_is_at_a_path_or_in_a_bucket() -> None:
    assert parse_path("runs/a") == Path("runs/a")
    assert parse_path("file:///runs/a%20b") == Path("/runs/a b")
    assert parse_path("s3://b/runs/a").name == "a"
    assert str(ObjectStorePath("s3://b/a?region=x") / "c") == "s3://b/a/c?region=x"
    assert ObjectStorePath("gs://b/a/c").parent == ObjectStorePath("gs://b/a")
    for wrong in ("s3://bucket", "ftp://host/a", "s3:/b/a"):
        with pytest.raises(ConfigError, match="is neither a path nor the URI of an object store"):
            parse_path(wrong)


def test_a_bucket_that_does_not_exist_is_named(bucket_dir: ObjectStorePath) -> None:
    elsewhere = ObjectStorePath(str(bucket_dir).replace("s3://bucket", "s3://nowhere"))
    with pytest.raises(ResourceError, match=r"s3://nowhere/\S+ cannot be written: there is no bucket nowhere"):
        (elsewhere / "lock").create(b"")
    with pytest.raises(ResourceError, match=r"s3://nowhere/\S+ cannot be written: there is no bucket nowhere"):
        (elsewhere / "a").put(b"")
    with pytest.raises(ResourceError, match=r"s3://nowhere/\S+ cannot be listed: there is no bucket nowhere"):
        elsewhere.sizes()


def test_aws_credentials_of_a_profile_are_found(
    bucket_dir: ObjectStorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = test\naws_secret_access_key = test\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    (bucket_dir / "a").put(b"one")
    assert (bucket_dir / "a").get() == b"one"
    monkeypatch.setenv("AWS_PROFILE", "missing")
    expected = r"The config profile \(missing\) could not be found"
    with pytest.raises(ConfigError, match=expected):
        ObjectStorePath(f"{bucket_dir}&scheme=http").size()
    with pytest.raises(ResourceError, match=expected):
        ObjectStorePath(f"{bucket_dir}&region=eu-central-1").size()


def test_a_run_may_be_in_azure_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    with running(BlobServer()) as server:
        for scheme in ("az", "abfs"):
            run = ObjectStorePath(f"{scheme}://container/runs/a?endpoint_override={server.url}")
            assert [(run / "lock").create(name) for name in (b"first", b"second")] == [True, False]
            (run / "part" / "b").put(b"one")
            assert run.sizes() == {"lock": 5, "part/b": 3}
            assert ((run / "lock").get(), (run / "none").find(), (run / "lock").size()) == (b"first", None, 5)
            for name in ("lock", "lock", "part/b"):
                (run / name).delete()
            assert run.sizes() == {}


def test_pyarrow_reads_and_writes_a_directory_in_a_bucket(bucket_dir: ObjectStorePath, proxy: Proxy) -> None:
    filesystem, path = pickle.loads(pickle.dumps(arrow_filesystem(bucket_dir)))
    filesystem.create_dir(path)
    proxy.spoil("error", methods=("PUT",))
    with filesystem.open_output_stream(f"{path}/marker") as stream:
        stream.write(b"content")
    assert proxy.spoilt == 1
    assert (bucket_dir / "marker").get() == b"content"
    with filesystem.open_input_stream(f"{path}/marker") as stream:
        assert stream.read() == b"content"
