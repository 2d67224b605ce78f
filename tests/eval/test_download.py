"""Downloads from a local HTTP server that disconnects, fails, ignores ranges or sends wrong bytes; local copies."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from env_construction.environment.jsonl import BadInput
from eval.download import (
    LOCK,
    PublishedFile,
    fetch,
    git_blob_id,
    main,
    mismatch,
    published_file,
    published_files,
    read_lock,
    select,
    take,
)
from eval.suites.suite import DataMissing

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/data/rotbench"
CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One GET request, passed to the server's `answer`."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, DataServer)
        server.ranges.append(self.headers.get("Range"))
        server.answer(self)

    def send(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        """If `length` differs from the body's, the connection closes early."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def asked_from(self) -> int:
        given = self.headers.get("Range")
        return int(given.removeprefix("bytes=").rstrip("-")) if given else 0

    def send_rest(self, content: bytes = CONTENT, most: int | None = None) -> None:
        """The content as a correct server sends it, interrupted after `most` bytes."""
        begin = self.asked_from()
        if begin >= len(content):
            self.send(416, b"", Content_Range=f"bytes */{len(content)}")
            return
        rest = content[begin:]
        headers = {"Content_Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        self.send(206 if begin else 200, rest[:most], len(rest), **headers)

    def log_message(self, format: str, *args: object) -> None:
        pass


class DataServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.ranges: list[str | None] = []
        self.answer: Answer = lambda request: request.send_rest()
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[DataServer]:
    opened = DataServer()
    thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield opened
    opened.shutdown()
    opened.server_close()


def blob_of(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def file(content: bytes = CONTENT, known: bool = True) -> PublishedFile:
    """A published file; if `known` is false, only git's content id is recorded, as for the large files."""
    return PublishedFile(
        suite="toolhop",
        name="ftrl/numbers.bin",
        repository="someone/data",
        commit="c0ffee",
        path="raw/numbers.bin",
        size=len(content) if known else None,
        sha256=hashlib.sha256(content).hexdigest() if known else None,
        git_blob=blob_of(content),
    )


def fetched(server: DataServer, folder: Path, item: PublishedFile | None = None, attempts: int = 3) -> str:
    with httpx.Client(follow_redirects=True, timeout=5.0) as client:
        return fetch(item or file(), folder, client, base_url=server.url, attempts=attempts, longest_wait_s=0.01)


@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_fetched_checked_and_recorded(server: DataServer, tmp_path: Path, known: bool) -> None:
    assert fetched(server, tmp_path, file(known=known)) == ""
    target = tmp_path / "ftrl/numbers.bin"
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["numbers.bin"]
    entry = read_lock(tmp_path)["ftrl/numbers.bin"]
    assert (entry["size"], entry["sha256"]) == (len(CONTENT), SHA256)
    assert entry["from"] == f"{server.url}/someone/data/c0ffee/raw/numbers.bin"
    assert mismatch(file(known=known), target, read_lock(tmp_path)) == ""


def test_an_interrupted_transfer_resumes(server: DataServer, tmp_path: Path) -> None:
    server.answer = lambda request: request.send_rest(most=100_000)
    assert fetched(server, tmp_path, attempts=1) == ""
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert (tmp_path / "ftrl/numbers.bin").read_bytes() == CONTENT


def test_the_next_run_resumes_a_partial_download(server: DataServer, tmp_path: Path) -> None:
    server.answer = lambda request: (
        request.send_rest(most=100_000) if not request.asked_from() else request.send(503, b"")
    )
    problem = fetched(server, tmp_path)
    assert "status 503" in problem and "100,000 bytes are kept" in problem
    assert not (tmp_path / "ftrl/numbers.bin").exists()
    server.answer, server.ranges = (lambda request: request.send_rest()), []
    assert fetched(server, tmp_path) == ""
    assert server.ranges == ["bytes=100000-"]


def test_the_transfer_restarts_if_the_server_ignores_ranges(server: DataServer, tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        broken = len(server.ranges) == 1
        request.send(200, CONTENT[:70_000] if broken else CONTENT, len(CONTENT))

    server.answer = answer
    assert fetched(server, tmp_path) == ""
    assert server.ranges == [None, "bytes=70000-"]
    assert (tmp_path / "ftrl/numbers.bin").read_bytes() == CONTENT


def test_a_transfer_without_progress_is_abandoned(server: DataServer, tmp_path: Path) -> None:
    server.answer = lambda request: request.send(200, CONTENT[:70_000], len(CONTENT))
    problem = fetched(server, tmp_path)
    assert "3 consecutive attempts received no new bytes" in problem
    assert len(server.ranges) == 4


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_final(server: DataServer, tmp_path: Path, status: int) -> None:
    server.answer = lambda request: request.send(status, b"gone")
    assert f"the server answered {status}" in fetched(server, tmp_path)
    assert len(server.ranges) == 1
    assert not (tmp_path / "ftrl/numbers.bin").exists()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_temporary_errors_are_retried(server: DataServer, tmp_path: Path, status: int) -> None:
    server.answer = lambda request: request.send_rest() if len(server.ranges) == 3 else request.send(status, b"later")
    assert fetched(server, tmp_path) == ""
    server.answer = lambda request: request.send(status, b"later")
    (tmp_path / "ftrl/numbers.bin").unlink()
    assert f"status {status}" in fetched(server, tmp_path)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"x", CONTENT[:-1], CONTENT + b"x", b"", b"<html>login</html>"])
def test_wrong_bytes_are_discarded_and_refused(server: DataServer, tmp_path: Path, wrong: bytes, known: bool) -> None:
    server.answer = lambda request: request.send(200, wrong)
    problem = fetched(server, tmp_path, file(known=known))
    assert "did not send the published bytes" in problem
    assert len(server.ranges) == 2
    assert list((tmp_path / "ftrl").iterdir()) == []
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("old", [b"part of an older file", CONTENT + b"too long", CONTENT[:-1] + b"x"])
def test_a_partial_download_of_another_file_restarts(server: DataServer, tmp_path: Path, old: bytes) -> None:
    part = tmp_path / "ftrl/numbers.bin.part"
    part.parent.mkdir()
    part.write_bytes(old)
    assert fetched(server, tmp_path) == ""
    assert server.ranges == [f"bytes={len(old)}-", None]
    assert (tmp_path / "ftrl/numbers.bin").read_bytes() == CONTENT


def test_a_wrong_range_is_refused(server: DataServer, tmp_path: Path) -> None:
    part = tmp_path / "ftrl/numbers.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:10])
    server.answer = lambda request: request.send(206, CONTENT, Content_Range=f"bytes 0-{len(CONTENT) - 1}/*")
    assert "requested bytes from 10, got 'bytes 0-" in fetched(server, tmp_path)


def test_redirects_are_followed(server: DataServer, tmp_path: Path) -> None:
    server.answer = lambda request: (
        request.send(302, b"", Location="/elsewhere") if request.path != "/elsewhere" else request.send_rest()
    )
    assert fetched(server, tmp_path) == ""


def test_an_unreachable_server_is_reported_in_one_line(tmp_path: Path) -> None:
    with httpx.Client(timeout=1.0) as client:
        problem = fetch(file(), tmp_path, client, base_url="http://127.0.0.1:9", attempts=2, longest_wait_s=0.01)
    assert "ConnectError" in problem and "\n" not in problem


def test_later_downloads_must_match_the_first(tmp_path: Path) -> None:
    """A lock with a different SHA-256 or size is trusted, not overwritten."""
    item, place = file(known=False), tmp_path / "numbers.bin"
    place.write_bytes(CONTENT)
    entry = {"size": len(CONTENT), "sha256": SHA256}
    assert mismatch(item, place, {item.name: entry}) == ""
    assert "published.lock.json" in mismatch(item, place, {item.name: {**entry, "sha256": "0" * 64}})
    assert "expected 7" in mismatch(item, place, {item.name: {**entry, "size": 7}})
    (tmp_path / LOCK).write_text("{")
    with pytest.raises(BadInput, match="expected JSON"):
        read_lock(tmp_path)
    (tmp_path / LOCK).write_text('{"a": 1}')
    with pytest.raises(BadInput, match="expected an object of objects"):
        read_lock(tmp_path)


def test_content_id_equals_gits(tmp_path: Path) -> None:
    place = tmp_path / "numbers.bin"
    place.write_bytes(CONTENT)
    asked = subprocess.run(["git", "hash-object", str(place)], capture_output=True, text=True, check=True)
    assert git_blob_id(place) == asked.stdout.strip()


@pytest.mark.parametrize("place", ["ftrl/numbers.bin", "numbers.bin", "raw/numbers.bin"])
def test_files_are_copied_from_a_data_folder_or_a_checkout(tmp_path: Path, place: str) -> None:
    source, folder = tmp_path / "source", tmp_path / "data"
    (source / place).parent.mkdir(parents=True)
    (source / place).write_bytes(CONTENT)
    assert take(file(), source, folder) == ""
    assert (folder / "ftrl/numbers.bin").read_bytes() == CONTENT
    assert read_lock(folder)["ftrl/numbers.bin"]["sha256"] == SHA256
    (source / place).write_bytes(b"other")
    assert "is not the published file" in take(file(), source, tmp_path / "fresh")
    assert not (tmp_path / "fresh" / "ftrl").exists()
    (source / place).unlink()
    assert take(file(), source, folder).startswith(f"not in {source}")


def test_the_table_pins_every_file_of_every_suite() -> None:
    files = published_files()
    assert {item.suite for item in files} == {"environments", "toolhop", "general", "tau_bench", "rotbench"}
    assert len({item.name for item in files}) == len(files) == 27
    assert all(len(item.git_blob) == 40 and len(item.commit) == 40 for item in files)
    unknown = {item.name for item in files if item.sha256 is None or item.size is None}
    assert unknown == {"ftrl/train.jsonl", "ftrl/test.jsonl", "ftrl/ToolHop.jsonl", "ftrl/General.jsonl"}
    assert [item.name for item in select(["toolhop"])] == ["ftrl/ToolHop.jsonl"]
    with pytest.raises(BadInput, match="unknown suite 'bfcl'"):
        select(["bfcl"])


@pytest.mark.skipif(not SHARED.exists(), reason="the RoTBench files are not here")
def test_hashes_of_the_table_are_those_of_the_real_files(tmp_path: Path) -> None:
    for item in select(["rotbench"]):
        if "third_turn" in item.name and not (SHARED / "third_turn").exists():
            continue
        assert take(item, SHARED.parent, tmp_path) == "", item.name
        assert published_file(item.name, tmp_path) == tmp_path / item.name
    (tmp_path / "rotbench/clean.json").write_text("[]")
    with pytest.raises(DataMissing, match=r"clean\.json: not the published file \(2 bytes, expected 723,197\)"):
        published_file("rotbench/clean.json", tmp_path)


def test_missing_files_are_reported_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(
        DataMissing, match=r"train\.jsonl of the repository bytedance/FTRL.*eval\.download environments"
    ):
        published_file("ftrl/train.jsonl", tmp_path)
    with pytest.raises(ValueError, match="unknown published file"):
        published_file("ftrl/nothing.jsonl", tmp_path)


def test_command_downloads_lists_and_never_overwrites(
    server: DataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The complete command, with an empty server and a user's file in one target path."""
    mine = tmp_path / "data/ftrl/ToolHop.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("my own\n")
    server.answer = lambda request: request.send(404, b"")

    def call(*flags: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["download", "--to", str(tmp_path / "data"), *flags])
        code = main()
        return code, capsys.readouterr().out

    code, said = call("toolhop", "rotbench", "--base-url", server.url)
    assert code == 1
    assert "ftrl/ToolHop.jsonl: not the published file" in said
    assert "rotbench/clean.json" in said and "the server answered 404" in said
    assert "0 of 11 files" in said and "--from DIR" in said
    assert mine.read_text() == "my own\n"
    with pytest.raises(BadInput, match="no such folder"):
        call("toolhop", "--from", str(tmp_path / "nowhere"))
    server.ranges = []
    code, said = call("--list")
    assert (code, server.ranges) == (1, [])
    assert said.count("missing; its source is") == 26


def test_lock_keeps_entries_of_earlier_runs(server: DataServer, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"other": {"size": 1}}))
    assert fetched(server, tmp_path) == ""
    assert set(read_lock(tmp_path)) == {"other", "ftrl/numbers.bin"}
