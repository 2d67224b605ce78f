"""Fetch the public data of the suites, or take files that are already there; every file is checked before it is used.

Inputs: `eval/published_files.csv` (which file, from which commit of which repository). Outputs, in --to: the files, and
`published.lock.json` with size and SHA-256 of each. Suites: `environments` (the authors' 2,215 training and 200 test environments),
`toolhop` (995 questions), `general` (the authors' prompts for the six general benchmarks), `tau_bench` (165 tasks and two databases),
`rotbench` (five noise levels, first and third turns).

How a file is checked: every one is pinned by git's own id of its content at a fixed commit (SHA-1 of a header and the bytes); where size
and SHA-256 are known too they stand in the table. Of the four files whose SHA-256 is not (train, test, ToolHop, General: too large for the copy that
the table was made from) it is recorded in the lock file at the first download, and checked from then on.

A transfer goes on where it broke off (HTTP range); a server that ignores the range starts over; wrong bytes are thrown away and fetched
once more, then refused. An existing file that does not check is left alone and named. Exit code 1 if anything is missing at the end.

Example:
    python -m eval.download                        # all suites, to data/
    python -m eval.download toolhop tau_bench
    python -m eval.download --from ~/FTRL          # no network: files of a checkout, or of another machine's data folder
    python -m eval.download --list                 # what is here and what is not; fetches nothing

Source: paper/README.md, "The published data, counted" and "Evaluation".
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, file_sha256, run_main
from eval.suites.suite import DataMissing

DATA = Path("data")
BASE_URL = "https://raw.githubusercontent.com"
LOCK = "published.lock.json"
ATTEMPTS = 6
LONGEST_WAIT_S = 30.0
_PASSING_STATUS = (408, 425, 429)


@dataclass(frozen=True)
class PublishedFile:
    """One file: `name` is its path under the data folder, `path` the one in `repository` at `commit`.

    `size` (bytes) and `sha256` are None where they are not known; `git_blob` always is: git's id of the content.
    """

    suite: str
    name: str
    repository: str
    commit: str
    path: str
    size: int | None
    sha256: str | None
    git_blob: str

    def url(self, base_url: str = BASE_URL) -> str:
        return f"{base_url.rstrip('/')}/{self.repository}/{self.commit}/{self.path}"

    @property
    def origin(self) -> str:
        return f"{self.path} of the repository {self.repository} at commit {self.commit[:12]}"


class TransferFailed(Exception):
    """A file could not be fetched; the message says why, in one line."""


def published_files(table: Path | None = None) -> list[PublishedFile]:
    """The rows of `published_files.csv`, in its order."""
    with (table or Path(__file__).with_name("published_files.csv")).open(encoding="utf-8", newline="") as handle:
        return [
            PublishedFile(
                row["suite"],
                row["name"],
                row["repository"],
                row["commit"],
                row["path"],
                int(row["size"]) if row["size"] else None,
                row["sha256"] or None,
                row["git_blob"],
            )
            for row in csv.DictReader(handle)
        ]


def published_file(name: str, folder: Path | str = DATA) -> Path:
    """The path of a published file that is there and checks, such as `ftrl/train.jsonl` (the authors' 2,215 training environments).

    Raises DataMissing that says what is missing or wrong, where it comes from, and how to get it. ValueError: no such name.
    """
    found = {file.name: file for file in published_files()}
    if name not in found:
        raise ValueError(f"unknown published file {name!r}: expected one of {', '.join(found)}")
    file, path = found[name], Path(folder) / name
    how = f"run `python -m eval.download {file.suite}`, or with `--from DIR` where the file is already on a disk"
    if not path.is_file():
        raise DataMissing(f"{path}: no such file; it is {file.origin}: {how}")
    wrong = mismatch(file, path, read_lock(folder))
    if wrong:
        raise DataMissing(f"{path}: not the published file ({wrong}): move it away and {how}")
    return path


def git_blob_id(path: Path | str) -> str:
    """Git's id of a file's content: SHA-1 over `blob <size>`, a zero byte, and the bytes."""
    path = Path(path)
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def mismatch(file: PublishedFile, path: Path, lock: dict[str, dict[str, Any]]) -> str:
    """Why the bytes at `path` are not the published ones; empty if they are."""
    size = path.stat().st_size
    locked = lock.get(file.name, {})
    wanted = file.size if file.size is not None else locked.get("size")
    if wanted is not None and size != wanted:
        return f"{size:,} bytes, expected {wanted:,}"
    blob = git_blob_id(path)
    if blob != file.git_blob:
        return f"git content id {blob}, expected {file.git_blob}"
    sha256 = file_sha256(path)
    for expected, source in ((file.sha256, "the table"), (locked.get("sha256"), f"{LOCK}, from the first download")):
        if expected and sha256 != expected:
            return f"SHA-256 {sha256}, expected {expected} ({source})"
    return ""


def read_lock(folder: Path | str) -> dict[str, dict[str, Any]]:
    """`{name: {size, sha256, git_blob, from}}` of the files that were taken in before. Raises BadInput."""
    path = Path(folder) / LOCK
    if not path.is_file():
        return {}
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: expected JSON ({error}); delete it to record the files anew") from None
    if not isinstance(lock, dict) or not all(isinstance(entry, dict) for entry in lock.values()):
        raise BadInput(f"{path}: expected an object of objects; delete it to record the files anew")
    return lock


def _record(folder: Path, file: PublishedFile, path: Path, source: str) -> None:
    lock = read_lock(folder)
    lock[file.name] = {
        "size": path.stat().st_size,
        "sha256": file_sha256(path),
        "git_blob": file.git_blob,
        "from": source,
    }
    partial = folder / (LOCK + ".partial")
    partial.write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(folder / LOCK)


def take(file: PublishedFile, source: Path, folder: Path) -> str:
    """Copy a file from `source`, a data folder or a checkout of its repository; returns why that failed, empty if it did not."""
    places = [source / file.name, source / file.path, source / Path(file.path).name]
    parts = Path(file.name).parts
    places[1:1] = [source / Path(*parts[1:])]
    wrong = ""
    for place in dict.fromkeys(places):
        if not place.is_file():
            continue
        wrong = mismatch(file, place, read_lock(folder))
        if wrong:
            wrong = f"{place} is not the published file: {wrong}"
            continue
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".part")
        shutil.copyfile(place, partial)
        partial.replace(target)
        _record(folder, file, target, "--from")
        return ""
    return wrong or f"not in {source}: looked for {', '.join(str(place) for place in dict.fromkeys(places))}"


def fetch(
    file: PublishedFile,
    folder: Path,
    client: httpx.Client,
    *,
    base_url: str = BASE_URL,
    attempts: int = ATTEMPTS,
    longest_wait_s: float = LONGEST_WAIT_S,
) -> str:
    """Fetch a file to its place under `folder`; returns why that failed, empty if it did not. Goes on with a `.part` that is there.

    `attempts` bounds the failures in a row: an attempt that brought bytes starts the count anew.
    """
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    url = file.url(base_url)
    wrong = ""
    for _ in range(2):  # wrong bytes may come from the part of an older file: once more from the start
        try:
            _transfer(url, part, file.size, client, attempts, longest_wait_s)
        except TransferFailed as error:
            return str(error)
        wrong = mismatch(file, part, read_lock(folder))
        if not wrong:
            part.replace(target)
            _record(folder, file, target, url)
            return ""
        part.unlink()
    return f"{url} sent other bytes than the published ones: {wrong}"


def _transfer(
    url: str, part: Path, size: int | None, client: httpx.Client, attempts: int, longest_wait_s: float
) -> None:
    """Bring the whole of `url` to `part`. Raises TransferFailed."""
    failures = 0
    most = part.stat().st_size if part.exists() else 0
    with tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=part.stem, leave=False) as bar:
        while True:
            try:
                if _receive(url, part, size, client, bar):
                    return
                reason = "it broke off"
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
            now = part.stat().st_size if part.exists() else 0
            failures = 0 if now > most else failures + 1
            most = max(most, now)
            if failures >= attempts:
                kept = f"; {now:,} bytes are kept, the next call goes on there" if now else ""
                raise TransferFailed(f"{url}: {reason} ({attempts} attempts in a row brought nothing new{kept})")
            time.sleep(min(longest_wait_s, 0.5 * 2**failures))


def _receive(url: str, part: Path, size: int | None, client: httpx.Client, bar: tqdm) -> bool:
    """One request, from where `part` ends; True if the file is complete. Raises httpx.HTTPError or TransferFailed."""
    have = part.stat().st_size if part.exists() else 0
    # compressed transfer would count other bytes than the file's
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        if status == 416:  # nothing lies behind what is here: it is complete, or it is not this file
            return True
        if status in _PASSING_STATUS or status >= 500:
            raise httpx.HTTPStatusError(f"status {status}", request=response.request, response=response)
        if status not in (200, 206):
            raise TransferFailed(f"{url}: the server answered {status} {response.reason_phrase}".rstrip())
        if status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise TransferFailed(f"{url}: asked from byte {have}, got {response.headers.get('Content-Range')!r}")
        resumed = status == 206
        total = have if resumed else 0
        length = response.headers.get("Content-Length")
        expected = total + int(length) if length and length.isdigit() else None
        bar.total, bar.n = size or expected, total
        with part.open("ab" if resumed else "wb") as handle:
            for block in response.iter_raw():  # as they come: a buffer would be lost when the connection breaks
                handle.write(block)
                total += len(block)
                bar.update(len(block))
                if size is not None and total > size:
                    return True  # too long: the check will say so
        return expected is None or total == expected


def select(suites: Sequence[str]) -> list[PublishedFile]:
    """The files of the suites, of all if none is named. Raises BadInput for an unknown suite."""
    files = published_files()
    known = list(dict.fromkeys(file.suite for file in files))
    for suite in suites:
        if suite not in known:
            raise BadInput(f"unknown suite {suite!r}: expected one of {', '.join(known)}")
    return [file for file in files if not suites or file.suite in suites]


def main() -> int:
    parser = ScriptParser(__doc__, "python -m eval.download")
    parser.add_argument("suites", nargs="*", help="environments, toolhop, general, tau_bench, rotbench (default: all)")
    parser.add_argument("--to", default=str(DATA), help="data folder (default: data)")
    parser.add_argument("--from", dest="source", default=None, help="take files from this folder, fetch nothing")
    parser.add_argument("--list", action="store_true", help="say what is there, fetch nothing")
    parser.add_argument("--base-url", default=BASE_URL, help="a mirror with the same paths: REPOSITORY/COMMIT/PATH")
    parser.add_argument("--attempts", type=int, default=ATTEMPTS, help="failures in a row before a file is given up")
    arguments = parser.parse_args()
    files, folder = select(arguments.suites), Path(arguments.to)
    source = Path(arguments.source) if arguments.source else None
    if source is not None and not source.is_dir():
        raise BadInput(f"--from {source}: no such folder")
    if arguments.attempts < 1:
        raise BadInput(f"--attempts: expected at least 1, got {arguments.attempts}")
    lock, failed, brought = read_lock(folder), 0, 0
    with httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60.0, connect=10.0)) as client:
        for file in files:
            target = folder / file.name
            if target.is_file():
                problem = mismatch(file, target, lock)
                problem = f"not the published file ({problem}); move it away to fetch it" if problem else ""
                done = "there"
                if not problem and file.name not in lock and not arguments.list:
                    _record(folder, file, target, "found there")
            elif arguments.list:
                problem, done = f"missing; it is {file.origin}", ""
            elif source is not None:
                problem, done = take(file, source, folder), "taken"
            else:
                problem = fetch(file, folder, client, base_url=arguments.base_url, attempts=arguments.attempts)
                done = "fetched"
            brought += not problem and done != "there"
            failed += bool(problem)
            size = f" ({target.stat().st_size:,} bytes)" if target.is_file() else ""
            print(f"{file.name}: {problem or done}{'' if problem else size}")
    if failed and source is None and not arguments.list:
        print("no network here? fetch the files on another machine, and give their folder with --from DIR")
    print(f"{len(files) - failed} of {len(files)} files are in {folder} and check, {brought} of them new")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
