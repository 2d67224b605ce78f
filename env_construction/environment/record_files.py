"""Files of records as people have them: JSONL, and Parquet with the same columns.

A table gives every record the keys of all records, and null where a record lacks one. What that does to an environment
is undone by `schema.Environment.from_record`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_jsonl

_PARQUET = b"PAR1"


def is_parquet(path: Path | str) -> bool:
    """Whether the file is Parquet, by its content. Raises BadInput if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    with path.open("rb") as handle:
        return handle.read(len(_PARQUET)) == _PARQUET


def read_records(path: Path | str, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(file and line or row, record)`; the content says which kind of file it is. Raises BadInput.

    `share`: see `read_jsonl`; a Parquet file is read whole.
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
