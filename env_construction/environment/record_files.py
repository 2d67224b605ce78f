"""Read files of records in both common formats: JSONL, and Parquet with the same columns.

A table gives every record the keys of all records, with null for keys that the record lacks.
`schema.Environment.from_record` reverses that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_jsonl

_PARQUET = b"PAR1"


def is_parquet(path: Path | str) -> bool:
    """Whether the file's content is Parquet. Raises BadInput if the file does not exist."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    with path.open("rb") as handle:
        return handle.read(len(_PARQUET)) == _PARQUET


def read_records(path: Path | str, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(file and line or row, record)`. The content determines the kind of file. Raises BadInput.

    `share`: see `read_jsonl`. A Parquet file is always read completely.
    """
    path = Path(path)
    if is_parquet(path):
        yield from _parquet_rows(path)
    else:
        for number, record in read_jsonl(path, share=share):
            yield f"{path}:{number}", record


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        row = 0
        for batch in table.iter_batches(batch_size=64):
            for record in batch.to_pylist():
                row += 1
                yield f"{path}, row {row}", record
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise BadInput(f"{path}: expected a Parquet file ({str(error).splitlines()[0]})") from None
