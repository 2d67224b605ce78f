"""Download the suites' public data, or import local copies. Every file is verified before it is used.

Inputs: `eval/published_files.csv` (each file, its repository and commit).
Outputs, in --to: the files, and `published.lock.json` with the size and SHA-256 of each. Suites: `environments` (the
authors' 2,215 training and 200 test environments), `toolhop` (995 questions), `general` (the authors' prompts for the
six general benchmarks), `tau_bench` (165 tasks and two databases), `rotbench` (five noise levels, first and third
turns).

Verification: each file is pinned by git's content id at a fixed commit (SHA-1 of a header and the bytes). The table
also has the size and SHA-256 where they are known. For four files (train, test, ToolHop, General) the SHA-256 is
unknown, because they were too large for the copy that the table was built from. The lock file records their SHA-256 at
the first download; later runs check it.

Two suites get their data elsewhere. CCTU's cases are a dataset on a model hub, whose hash is not known here: see
eval/constraints/cases.py. tau2-bench is a checkout with its own virtualenv: see eval/tau/tau2_process.py.

An interrupted transfer resumes (HTTP range). If the server ignores the range, the transfer restarts. Wrong bytes are
discarded and fetched once more, then refused. An existing file that fails verification is left in place and reported.
The exit code is 1 if any file is missing at the end.

Example:
    python -m eval.download                        # all suites, to data/
    python -m eval.download toolhop tau_bench
    python -m eval.download --from ~/FTRL          # no network: use a checkout, or a copied data folder
    python -m eval.download --list                 # show which files are present; download nothing

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
    """One file: `name` is its path under the data folder, `path` its path in `repository` at `commit`.

    `size` (bytes) and `sha256` are None if unknown. `git_blob`, git's id of the content, is always known.
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
    """A file could not be downloaded; the message gives the reason in one line."""


def published_files(table: Path | None = None) -> list[PublishedFile]:
    """The rows of `published_files.csv`, in order."""
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
    """The path of a verified published file, such as `ftrl/train.jsonl` (the authors' 2,215 training environments).

    Raises DataMissing, which says what is missing or wrong, where the file comes from, and how to get it. Raises
    ValueError for an unknown name.
    """
    found = {file.name: file for file in published_files()}
    if name not in found:
        raise ValueError(f"unknown published file {name!r}: expected one of {', '.join(found)}")
    file, path = found[name], Path(folder) / name
    how = f"run `python -m eval.download {file.suite}`, or add `--from DIR` if you already have the file"
    if not path.is_file():
        raise DataMissing(f"{path}: no such file; its source is {file.origin}: {how}")
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
    """How the bytes at `path` differ from the published ones; empty if they are the same."""
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
    """`{name: {size, sha256, git_blob, from}}` for the files recorded earlier. Raises BadInput."""
    path = Path(folder) / LOCK
    if not path.is_file():
        return {}
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: expected JSON ({error}); delete it to record the files again") from None
    if not isinstance(lock, dict) or not all(isinstance(entry, dict) for entry in lock.values()):
        raise BadInput(f"{path}: expected an object of objects; delete it to record the files again")
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
    """Copy a file from `source`, a data folder or a checkout of its repository.

    Returns the reason if it failed, else an empty string.
    """
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
    """Download a file to its place under `folder`, resuming from an existing `.part` file.

    Returns the reason if it failed, else an empty string. `attempts` limits consecutive failures: an attempt that
    received bytes resets the count.
    """
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    url = file.url(base_url)
    wrong = ""
    for _ in range(2):  # an old .part file can cause wrong bytes, so retry once from the start
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
    return f"{url} did not send the published bytes: {wrong}"


def _transfer(
    url: str, part: Path, size: int | None, client: httpx.Client, attempts: int, longest_wait_s: float
) -> None:
    """Download all of `url` to `part`. Raises TransferFailed."""
    failures = 0
    most = part.stat().st_size if part.exists() else 0
    with tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=part.stem, leave=False) as bar:
        while True:
            try:
                if _receive(url, part, size, client, bar):
                    return
                reason = "the connection closed early"
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
            now = part.stat().st_size if part.exists() else 0
            failures = 0 if now > most else failures + 1
            most = max(most, now)
            if failures >= attempts:
                kept = f"; {now:,} bytes are kept; run again to resume" if now else ""
                raise TransferFailed(f"{url}: {reason} ({attempts} consecutive attempts received no new bytes{kept})")
            time.sleep(min(longest_wait_s, 0.5 * 2**failures))


def _receive(url: str, part: Path, size: int | None, client: httpx.Client, bar: tqdm) -> bool:
    """One request, starting at the end of `part`; True if the file is complete.

    Raises httpx.HTTPError or TransferFailed.
    """
    have = part.stat().st_size if part.exists() else 0
    # a compressed transfer would count compressed bytes, and the range would be wrong
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        if status == 416:  # no bytes remain: the file is complete, or it is the wrong file
            return True
        if status in _PASSING_STATUS or status >= 500:
            raise httpx.HTTPStatusError(f"status {status}", request=response.request, response=response)
        if status not in (200, 206):
            raise TransferFailed(f"{url}: the server answered {status} {response.reason_phrase}".rstrip())
        if status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise TransferFailed(f"{url}: requested bytes from {have}, got {response.headers.get('Content-Range')!r}")
        resumed = status == 206
        total = have if resumed else 0
        length = response.headers.get("Content-Length")
        expected = total + int(length) if length and length.isdigit() else None
        bar.total, bar.n = size or expected, total
        with part.open("ab" if resumed else "wb") as handle:
            for block in response.iter_raw():  # unbuffered: a buffer would be lost if the connection breaks
                handle.write(block)
                total += len(block)
                bar.update(len(block))
                if size is not None and total > size:
                    return True  # longer than expected: the verification will report it
        return expected is None or total == expected


def select(suites: Sequence[str]) -> list[PublishedFile]:
    """The files of these suites, or of all suites if none is named. Raises BadInput for an unknown suite."""
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
    parser.add_argument("--from", dest="source", default=None, help="copy files from this folder; download nothing")
    parser.add_argument("--list", action="store_true", help="show which files are present; download nothing")
    parser.add_argument("--base-url", default=BASE_URL, help="mirror with the same paths: REPOSITORY/COMMIT/PATH")
    parser.add_argument(
        "--attempts", type=int, default=ATTEMPTS, help="consecutive failures before a file is abandoned"
    )
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
                problem = f"not the published file ({problem}); move it away to download it again" if problem else ""
                done = "there"
                if not problem and file.name not in lock and not arguments.list:
                    _record(folder, file, target, "already present")
            elif arguments.list:
                problem, done = f"missing; its source is {file.origin}", ""
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
        print("no network? download the files on another machine, then pass their folder with --from DIR")
    print(f"{len(files) - failed} of {len(files)} files in {folder} are verified, {brought} of them new")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
