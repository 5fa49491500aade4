"""`file://` reads regular files in allowed folders and nothing else, whatever links and races are tried."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from consumers.fetch_errors import TryAgainError
from consumers.file_fetch import read_file
from pinstream.errors import BadRecordError
from pinstream.settings import FetchSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"picture")
    (folder / "inner" / "ü b%.jpg").write_bytes(b"inner picture")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return folder


def settings(*folders: Path) -> FetchSettings:
    return FetchSettings(allowed_folders=folders, max_bytes=1024)


def reason(uri: str, fetch: FetchSettings) -> str:
    with pytest.raises(BadRecordError) as refused:
        read_file(uri, fetch)
    assert refused.value.stage == "fetch"
    return refused.value.reason


def test_files_in_allowed_folders_are_read(folder: Path) -> None:
    fetch = settings(folder.parent / "elsewhere", folder)
    assert read_file(f"file://{folder}/a.jpg", fetch) == b"picture"
    assert read_file(f"file://localhost{folder}/a.jpg", fetch) == b"picture"
    assert read_file(f"file:{folder}/a.jpg", fetch) == b"picture"
    assert read_file(f"file://{folder}/inner/%C3%BC%20b%25.jpg", fetch) == b"inner picture"
    assert read_file(f"file://{folder}/inner/../a.jpg", fetch) == b"picture"


def test_nothing_is_allowed_by_default(folder: Path) -> None:
    with pytest.raises(BadRecordError, match=r"fetch\.allowed_folders \(nothing\): add its folder"):
        read_file(f"file://{folder}/a.jpg", FetchSettings())


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "%2e%2e/secret.jpg", "inner/..%2f../secret.jpg", "../allowed-too/a.jpg", "../nothing.jpg"]
)
def test_ways_out_are_refused(folder: Path, path: str) -> None:
    beside = folder.parent / "allowed-too"
    beside.mkdir()
    (beside / "a.jpg").write_bytes(b"secret")
    assert reason(f"file://{folder}/{path}", settings(folder)) == "file_not_allowed"


def test_links_are_followed_inside_and_refused_outside(folder: Path) -> None:
    (folder / "in.jpg").symlink_to("inner/ü b%.jpg")
    (folder / "out.jpg").symlink_to("../secret.jpg")
    (folder / "out").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    assert read_file(f"file://{folder}/in.jpg", settings(folder)) == b"inner picture"
    assert reason(f"file://{folder}/out.jpg", settings(folder)) == "file_not_allowed"
    assert reason(f"file://{folder}/out/secret.jpg", settings(folder)) == "file_not_allowed"
    assert reason(f"file://{folder}/loop", settings(folder)) in ("file_not_allowed", "not_found")


def test_an_allowed_folder_may_be_a_link(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert read_file(f"file://{link}/a.jpg", settings(link)) == b"picture"
    assert read_file(f"file://{folder}/a.jpg", settings(link)) == b"picture"


@pytest.mark.timeout(10)
def test_only_regular_files_are_read_and_none_of_the_others_waits(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    for name in ("fifo", "socket", "inner", ""):
        assert reason(f"file://{folder}/{name}", settings(folder)) == "not_a_file", name
    listener.close()
    assert reason("file:///dev/zero", settings(Path("/dev"))) == "not_a_file"


def test_missing_and_unreadable_files_are_told_apart(folder: Path) -> None:
    assert reason(f"file://{folder}/nothing.jpg", settings(folder)) == "not_found"
    assert reason(f"file://{folder}/a.jpg/more", settings(folder)) == "not_found"
    assert reason(f"file://{folder}/{'x' * 300}", settings(folder)) == "not_found"
    if os.geteuid() != 0:  # root may read everything
        (folder / "a.jpg").chmod(0)
        assert reason(f"file://{folder}/a.jpg", settings(folder)) == "forbidden"


def test_the_size_limit_is_exact(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(bytes(1024))
    assert len(read_file(f"file://{folder}/a.jpg", settings(folder))) == 1024
    (folder / "a.jpg").write_bytes(bytes(1025))
    assert reason(f"file://{folder}/a.jpg", settings(folder)) == "image_too_large"


def test_files_without_a_size_stop_at_the_limit() -> None:
    """Files in /proc say 0 bytes and hold more."""
    uri = f"file:///proc/{os.getpid()}/environ"
    proc = Path(f"/proc/{os.getpid()}")
    if not proc.exists():
        pytest.skip("needs /proc")
    content = read_file(uri, FetchSettings(allowed_folders=(proc,)))
    if len(content) > 1024:
        assert reason(uri, settings(proc)) == "image_too_large"


@pytest.mark.parametrize(
    "uri", ["file://host/a", "file:a.jpg", "file:///a?b", "file:///a#b", "file:///a%00b", "file://[/a", "file:"]
)
def test_malformed_uris_are_refused(uri: str, folder: Path) -> None:
    assert reason(uri, settings(folder)) == "bad_uri"


def test_a_link_put_in_while_files_are_read_leads_nowhere(folder: Path) -> None:
    """A writer swaps a file for a link to the secret and back: no read may ever see the secret."""
    stop = threading.Event()
    good, bad, target = folder / "good", folder / "bad", folder / "inner"

    def swap() -> None:
        target.rename(good)
        bad.symlink_to("..")
        while not stop.is_set():
            bad.rename(target)
            target.rename(bad)
            good.rename(target)
            target.rename(good)

    (target / "secret.jpg").write_bytes(b"picture")
    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: set[object] = set()
    deadline_s = time.monotonic() + 5
    try:
        while not {b"picture", "file_not_allowed"} <= seen and time.monotonic() < deadline_s:
            for _ in range(200):
                try:
                    seen.add(read_file(f"file://{folder}/inner/secret.jpg", settings(folder)))
                except BadRecordError as refused:
                    seen.add(refused.reason)
                except TryAgainError:
                    seen.add("try_again")
    finally:
        stop.set()
        swapper.join()
    assert b"secret" not in seen
    assert b"picture" in seen
    assert seen <= {b"picture", "file_not_allowed", "not_found", "try_again"}
