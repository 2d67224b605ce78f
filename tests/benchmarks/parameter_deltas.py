"""Memory and time of the parameter analysis, compared with a sequential read of the same two checkpoints.

Writes a pair of checkpoints with a Qwen3-like layout to --folder (bf16, --gigabytes in total, random elements, the
trained one changed by about 1%). Then it alternates, `--repeats` times and with a warm page cache, between a sequential
read of both files into one buffer and a comparison with analysis.parameter_deltas. It reports both times and their
ratio, the peak resident memory above that of the idle process (limit: 3 times the largest tensor plus 500 MB), and the
estimated time for a pair of 14B models. Run by hand; not part of the tests.

Example: PYTHONPATH=. python tests/benchmarks/parameter_deltas.py --folder /tmp/pair --gigabytes 4
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from analysis.checkpoints.tensors import checkpoint_tensors
from analysis.parameter_deltas import compare_checkpoints

HIDDEN, INNER, VOCABULARY, SHARDS = 2048, 6144, 65536, 4


def shapes(elements: int) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a model with about `elements` elements, with as many layers as fit."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    layer: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
    layer |= {
        "mlp.gate_proj.weight": (INNER, HIDDEN),
        "mlp.up_proj.weight": (INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER),
    }
    layer["input_layernorm.weight"] = (HIDDEN,)
    each = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER + HIDDEN
    for number in range(max(1, (elements - VOCABULARY * HIDDEN) // each)):
        found |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return found


def write_pair(folder: Path, gigabytes: float) -> tuple[Path, Path]:
    """Two sharded bf16 checkpoints. Existing ones are kept."""
    base, trained = folder / "base", folder / "trained"
    if (trained / "done").exists():
        return base, trained
    generator = torch.Generator().manual_seed(0)
    names = list(shapes(int(gigabytes * 1e9 / 4)).items())
    for path in (base, trained):
        path.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        one, other = {}, {}
        for name, shape in names[shard::SHARDS]:
            weights = 0.02 * torch.randn(shape, generator=generator)
            one[name] = weights.bfloat16()
            other[name] = (weights * (1 + 0.01 * torch.randn(shape, generator=generator))).bfloat16()
        save_file(one, base / f"model-{shard}.safetensors")
        save_file(other, trained / f"model-{shard}.safetensors")
    (trained / "done").touch()
    return base, trained


def plain_read(folders: tuple[Path, Path]) -> tuple[float, int]:
    """Seconds and bytes of reading all files of both folders from start to end into one buffer of 16 MiB."""
    buffer, size, begun = bytearray(16 << 20), 0, time.perf_counter()
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb", buffering=0) as handle:
                while got := handle.readinto(buffer):
                    size += got
    return time.perf_counter() - begun, size


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the pair, which is kept")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of both checkpoints together")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--make-only", action="store_true", help="only write the pair (writing would raise the measured peak memory)"
    )
    arguments = parser.parse_args()
    if arguments.make_only or not (arguments.folder / "trained" / "done").exists():
        write_pair(arguments.folder, arguments.gigabytes)
        print(f"wrote the pair into {arguments.folder}; run again without --make-only to measure it")
        return
    pair = write_pair(arguments.folder, arguments.gigabytes)
    largest = max(tensor.bytes for tensor in checkpoint_tensors(pair[0]).values())
    plain_read(pair)
    idle = peak_bytes()
    begun = time.perf_counter()
    compare_checkpoints(*pair)
    first = time.perf_counter() - begun
    reads, compares, size = [], [], 0
    for _ in range(arguments.repeats):
        seconds, size = plain_read(pair)
        reads.append(seconds)
        begun = time.perf_counter()
        compare_checkpoints(*pair)
        compares.append(time.perf_counter() - begun)
    read, compared = statistics.median(reads), statistics.median(compares)
    limit = 3 * largest + 500e6
    print(f"pair: {size / 1e9:.2f} GB in {2 * SHARDS} files, largest tensor {largest / 1e6:.0f} MB")
    print(
        f"plain read   {read:.3f} s median of {arguments.repeats} ({size / read / 1e9:.1f} GB/s), "
        f"best {min(reads):.3f} s"
    )
    print(
        f"comparison   {compared:.3f} s median ({size / compared / 1e9:.1f} GB/s), best {min(compares):.3f} s; "
        f"first call {first:.2f} s"
    )
    print(f"time ratio   {compared / read:.2f} (medians), {min(compares) / min(reads):.2f} (best of each); limit 1.5")
    print(
        f"peak memory  {peak_bytes() / 1e6:.0f} MB in total, {(peak_bytes() - idle) / 1e6:.0f} MB above idle; "
        f"limit {limit / 1e6:.0f} MB"
    )
    whole = 2 * 14.8e9 * 2
    print(
        f"a 14B pair ({whole / 1e9:.0f} GB): about {whole / size * compared:.0f} s from a warm page cache, "
        "else the time of reading it"
    )


if __name__ == "__main__":
    main()
