"""What it takes to have 100,000 examples as token ids: the first start, the second, and the way one row at a time.

The examples are words of this repository's pages drawn by chance, in JSON Lines. Tokenizer and chat template are
SmolLM2-135M-Instruct's, the teacher's template is single_turn. Every figure comes from a process of its own on two
cores. The first start reads, renders, encodes and keeps the rows in an empty cache, the second finds them there. One
row at a time is measured on fewer rows, and held against the batched way on the same ones. Memory is the peak of the
process beyond its imports and its tokenizer.
"""

import json
import multiprocessing
import os
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdft_ray.config import DataConfig, MethodConfig, TeacherConfig
from sdft_ray.data import dataset
from sdft_ray.data.dataset import read_dataset
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Selection
from sdft_ray.data.rows import RowRules
from sdft_ray.data.sources import load_rows
from sdft_ray.data.stream import stable_hash
from sdft_ray.data.tokenized import TokenizedRow
from sdft_ray.models.embedded import embedded_model
from sdft_ray.models.folder import load_tokenizer
from tests.benchmarks.processes import ROOT

NUM_ROWS = 100_000
NUM_ALONE = 4_000  # rows of the comparison with one at a time
MIB = 2**20
METHOD = MethodConfig()


def measure() -> dict[str, Any]:
    """Starts three times; the headlines are the two starts and the ratio."""
    with tempfile.TemporaryDirectory() as scratch:
        load, _, _ = os.getloadavg()
        data = _write(Path(scratch) / "rows.jsonl", NUM_ROWS)
        folder = Path(scratch) / "cache"
        first, second = (_in_process(_start, data, folder) for _ in range(2))
        [kept] = (folder / "rows").iterdir()
        cache_mib = kept.stat().st_size / MIB
        alone = _in_process(_one_at_a_time, replace(data, num_examples=NUM_ALONE))
    ratio = alone["alone_s"] / alone["batched_s"]
    return {
        "data_first_start_s": first["seconds"],
        "data_second_start_s": second["seconds"],
        "data_alone_over_batched": ratio,
        "data_raw": {
            "tables": {
                "": [{"start": name} | figures["row"] for name, figures in (("first", first), ("second", second))],
                "Parts of the first start": first["parts"],
                f"The same {NUM_ALONE:,} rows": [
                    {"way": way, "seconds": alone[key], "rows_a_second": NUM_ALONE / alone[key]}
                    for way, key in (("one at a time", "alone_s"), ("batched", "batched_s"))
                ],
                "The fingerprint of a checkpoint": [
                    {"of": f"{NUM_ALONE:,} rows", "way": way, "seconds": alone[key]}
                    for way, key in (("text of every row", "old_digest_s"), ("arrays", "digest_s"))
                ]
                + [{"of": f"{NUM_ROWS:,} rows", "way": "arrays", "seconds": second["digest_s"]}],
            },
            "notes": [
                f"The file of the cache has {cache_mib:,.0f} MiB; a row has {first['tokens']:.0f} tokens of prompt, "
                "teacher prompt and demonstration.",
                f"The machine's load average before was {load:.1f}.",
            ],
        },
    }


def _write(path: Path, number: int) -> DataConfig:
    draw = random.Random(0)
    words = re.findall(r"\S+", (ROOT / "docs" / "method.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text())

    def text(shortest: int, longest: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(shortest, longest)))

    with path.open("w") as file:
        for index in range(number):
            row = {"prompt": f"{index}: {text(20, 60)}", "demonstration": text(30, 120)}
            file.write(json.dumps(row) + "\n")
    return DataConfig(source=str(path))


def _in_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _builder() -> PromptBuilder:
    return PromptBuilder(load_tokenizer(embedded_model(), ""), TeacherConfig())


def _start(data: DataConfig, folder: Path) -> dict[str, Any]:
    builder = _builder()
    os.environ["SDFT_RAY_CACHE"] = str(folder)
    parts = {"read rows": 0.0, "encode": 0.0}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = call(*arguments)
            parts[name] += time.perf_counter() - began
            return result

        return measured

    dataset.load_rows = timed("read rows", dataset.load_rows)
    builder.encoder._batch = timed("encode", builder.encoder._batch)  # type: ignore[method-assign]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, began_processor = time.perf_counter(), time.process_time()
    read = read_dataset(data, METHOD, builder)
    seconds, processor = time.perf_counter() - began, time.process_time() - began_processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts["render, check and keep"] = seconds - sum(parts.values())
    began = time.perf_counter()
    read.rows.digest()
    return {
        "seconds": seconds,
        "digest_s": time.perf_counter() - began,
        "tokens": sum(len(column.tokens) for column in read.rows.columns) / len(read.rows),
        "row": {
            "seconds": seconds,
            "processor_s": processor,
            "rows_a_second": len(read.rows) / seconds,
            "memory_mib": (peak - before) / 1024,
        },
        "parts": [
            {"part": name, "seconds": spent, "rows_a_second": NUM_ROWS / spent}
            for name, spent in parts.items()
            if spent  # a second start reads no row
        ],
    }


def _one_at_a_time(data: DataConfig) -> dict[str, Any]:
    builder = _builder()
    loaded = load_rows(data.source, Selection.of(data, data.num_examples), RowRules(columns={}, system="", required=()))
    began = time.perf_counter()
    alone = [
        TokenizedRow(
            example_id=example.example_id,
            prompt_tokens=builder.student(example),
            teacher_prompt_tokens=builder.teacher(example),
            demonstration_tokens=builder.demonstration(example),
        )
        for example in loaded.examples
    ]
    alone_s = time.perf_counter() - began
    began = time.perf_counter()
    batched = dataset.tokenize_examples(loaded.examples, builder, data).rows
    batched_s = time.perf_counter() - began
    if list(batched) != alone:
        raise RuntimeError("batched rows have other tokens than each has alone")
    began = time.perf_counter()
    stable_hash(*alone)
    old_digest_s = time.perf_counter() - began
    began = time.perf_counter()
    batched.digest()
    return {
        "alone_s": alone_s,
        "batched_s": batched_s,
        "old_digest_s": old_digest_s,
        "digest_s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
