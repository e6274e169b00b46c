from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from actors.storage.object_store import ObjectStorePath, parse_path
from tangoflux.errors import ConfigError, DataError, ResourceError
from tests.object_store import Fault, Proxy


def test_objects_are_put_found_listed_and_deleted(place: ObjectStorePath, tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(place / "part"))
    sent.put("a/b", b"one")
    (tmp_path / "file").write_bytes(bytes(7 << 20))
    place.put("large", tmp_path / "file")
    assert place.sizes() == {"part/a/b": 3, "large": 7 << 20}
    assert place.sizes("part") == {"part/a/b": 3}
    assert (place / "part").sizes() == {"a/b": 3}
    assert (place.get("part/a/b"), place.find("nothing"), place.size("large")) == (b"one", None, 7 << 20)
    place.fetch("large", tmp_path / "below" / "copy")
    assert (tmp_path / "below" / "copy").stat().st_size == 7 << 20
    place.delete("part/a/b")
    place.delete("part/a/b")
    assert list(place.sizes()) == ["large"]
    with pytest.raises(DataError, match=r"run/\S+/nothing\?endpoint_override=\S+ is not there"):
        place.get("nothing")


def test_of_two_that_create_an_object_one_does(place: ObjectStorePath) -> None:
    assert place.create("lock", b"first")
    assert not place.create("lock", b"second")
    assert place.get("lock") == b"first"


@pytest.mark.parametrize("fault", ["error", "slow", "cut", "answer lost"])
def test_a_spoilt_request_is_repeated(place: ObjectStorePath, proxy: Proxy, fault: Fault) -> None:
    for method, request in {
        "PUT": lambda: place.put("a", bytes(100_000)),
        "GET": lambda: place.get("a"),
        "HEAD": lambda: place.size("a"),
    }.items():
        proxy.spoil(fault, methods=(method,))
        request()
        assert proxy.spoilt == 1
    assert place.get("a") == bytes(100_000)


def test_an_object_whose_creation_was_not_answered_is_known_as_ones_own(place: ObjectStorePath, proxy: Proxy) -> None:
    proxy.spoil("answer lost", methods=("PUT",))
    assert place.create("lock", b"mine")


def test_a_store_that_fails_for_good_ends_in_one_line_with_uri_and_cause(place: ObjectStorePath, proxy: Proxy) -> None:
    started = time.monotonic()
    faults: list[Fault] = ["error"] * 100
    proxy.spoil(*faults)
    with pytest.raises(ResourceError, match=rf"{place.prefix}/a\?\S+ cannot be written: .*InternalError|INTERNAL_FAIL"):
        place.put("a", b"")
    assert proxy.spoilt < 20
    assert time.monotonic() - started < 30


def test_a_run_is_at_a_path_or_in_a_bucket() -> None:
    assert parse_path("runs/a") == Path("runs/a")
    assert parse_path("file:///runs/a%20b") == Path("/runs/a b")
    assert parse_path("s3://b/runs/a").name == "a"
    assert str(ObjectStorePath("s3://b/a?region=x") / "c") == "s3://b/a/c?region=x"
    for wrong in ("s3://bucket", "ftp://host/a", "s3:/b/a"):
        with pytest.raises(ConfigError, match="is no place for a run"):
            parse_path(wrong)


def test_a_bucket_that_is_not_there_is_named(place: ObjectStorePath) -> None:
    elsewhere = ObjectStorePath(str(place).replace("s3://bucket", "s3://nowhere"))
    with pytest.raises(ResourceError, match=r"s3://nowhere/\S+ cannot be written: there is no bucket nowhere"):
        elsewhere.create("lock", b"")
    with pytest.raises(ResourceError, match=r"s3://nowhere/\S+ cannot be written"):
        elsewhere.put("a", b"")
