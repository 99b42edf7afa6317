"""One measurement of `bench_data.py` in a process of its own: makes its data, measures, prints one JSON object.

In: the name of a part and its settings as JSON. Seconds are wall-clock, or of the processor with `cpu_seconds`,
which other work on the machine changes little. Memory is the peak of the process and of its children.
"""

from __future__ import annotations

import itertools
import json
import os
import pydoc_data.topics
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

Settings = dict[str, Any]
PROFILE_SECONDS = 0.002
PARQUET_ROWS = 2_000
EVALUATION_WORDS = 40
WARMED_UP = 50
"""Documents that are cleaned before the time counts: libraries are imported and tables made."""
DOCUMENTS_A_LENGTH = {"web": (0.9, 490, 1.0), "books": (0.002, 60_000, 0.5), "notes": (0.098, 60, 0.8)}
"""Of the packing benchmark: share, median tokens, and spread of the logarithm."""


def main() -> None:
    """Run the part that the command line names."""
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    found = PARTS[name](settings)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({**found, "peak_bytes": max(used.ru_maxrss for used in usage) * 1024}), flush=True)


class Stopwatch:
    """Seconds of wall-clock or of the processor, by setting."""

    def __init__(self, settings: Settings) -> None:
        self._now = time.process_time if settings["cpu_seconds"] else time.perf_counter
        self._began = self._now()

    def __call__(self) -> float:
        return self._now() - self._began


# --- text ---------------------------------------------------------------------------------------------------------


class Writer:
    """English words in the order of chance, as documents: a pure function of the seed.

    Words and their frequencies are those of Python's own manual, sentences have 6 to 22 of them, paragraphs 3 to 6
    sentences, documents a log-normal length with a median of 1.6 kB. One in twenty repeats an earlier document, one
    in twenty repeats it with every fortieth word changed, and one in forty is a list of numbers, so that every
    step of the pipeline has something to do.
    """

    def __init__(self, seed: int) -> None:
        words = re.findall(r"\b[a-z]{1,12}\b", " ".join(pydoc_data.topics.topics.values()))
        counted = Counter(words).most_common()
        self._draw = np.random.default_rng(seed)
        shares = np.array([count for _, count in counted], dtype=np.float64)
        self._edges = np.cumsum(shares / shares.sum())
        plain = [f" {word}" for word, _ in counted]
        # Three forms of every word: inside a sentence, at its beginning, at its end; and one before a line end.
        forms = (plain, [f" {word[1:].capitalize()}" for word in plain], [f"{word}." for word in plain])
        self._forms = np.array([*forms[0], *forms[1], *forms[2], *(f"{word}.\n" for word in plain)], dtype=object)
        self._size = len(plain)
        self._earlier: list[str] = []

    def document(self) -> str:
        """The next one."""
        kind = self._draw.random()
        if kind < 0.1 and self._earlier:
            text = self._earlier[int(self._draw.integers(len(self._earlier)))]
            return text if kind < 0.05 else re.sub(r"((?:\S+\s){39})\S+", r"\1changed", text)
        if kind > 0.975:
            return "\n".join(map(str, self._draw.integers(0, 10**6, 200).tolist()))
        text = self._fresh(max(20, int(self._draw.lognormal(np.log(260), 0.9))))
        if len(self._earlier) < 500:
            self._earlier.append(text)
        else:
            self._earlier[int(self._draw.integers(500))] = text
        return text

    def _fresh(self, num_words: int) -> str:
        ids = np.minimum(np.searchsorted(self._edges, self._draw.random(num_words)), self._size - 1)
        ends = np.cumsum(self._draw.integers(6, 23, num_words // 6 + 1)) - 1
        ends = np.append(ends[ends < num_words - 1], num_words - 1)
        paragraph_ends = ends[np.cumsum(self._draw.integers(3, 7, len(ends) // 3 + 1))[:-1] % len(ends)]
        ids[np.append(0, ends[:-1] + 1)] += self._size
        ids[ends] = ids[ends] % self._size + 2 * self._size
        ids[paragraph_ends] = ids[paragraph_ends] % self._size + 3 * self._size
        return "".join(self._forms[ids].tolist()).replace("\n ", "\n").strip()


def write_parquet(settings: Settings) -> Settings:
    """About `bytes` of text into a Parquet file at `path`; at least a row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, path, written, count = Writer(settings["seed"]), Path(settings["path"]), 0, 0
    with pq.ParquetWriter(path, pa.schema({"text": pa.string(), "id": pa.string()})) as file:
        while written < settings["bytes"]:
            texts: list[str] = []
            while len(texts) < PARQUET_ROWS and written < settings["bytes"]:
                texts.append(writer.document())
                written += len(texts[-1].encode())
            file.write_table(pa.table({"text": texts, "id": [str(count + index) for index in range(len(texts))]}))
            count += len(texts)
    return {"bytes": written, "documents": count}


def write_evaluation(path: Path, seed: int) -> None:
    """Items to look for, one a line: 2,000 of another seed, which the text does not hold, and 20 that it holds."""
    items = []
    for writer, count in ((Writer(seed + 1), 2_000), (Writer(seed), 20)):
        texts = (writer.document() for _ in range(count))
        items += [" ".join(text.split()[:EVALUATION_WORDS]) for text in texts]
    path.write_text("\n".join(items) + "\n", encoding="utf-8")


def texts_of(num_bytes: int, seed: int) -> list[str]:
    """Fresh documents of about so many bytes together."""
    writer, texts, size = Writer(seed), list[str](), 0
    while size < num_bytes:
        texts.append(writer.document())
        size += len(texts[-1])
    return texts


# --- the whole pipeline ---------------------------------------------------------------------------------------------


class Profile:
    """Where the processor's time goes, by the innermost function of ours on the stack.

    A signal comes every 2 ms of processor time. While C works, signals wait; the time since the last one is booked
    on the frame that called it, so no work of C is lost or booked elsewhere.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = 0.0

    def __enter__(self) -> Profile:
        self._last = time.process_time()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, PROFILE_SECONDS, PROFILE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        now = time.process_time()
        while frame is not None and not str(frame.f_globals.get("__name__", "")).startswith("slm."):
            frame = frame.f_back
        name = f"{frame.f_globals['__name__']}.{frame.f_code.co_name}" if frame else "everything else"
        self.seconds[name] += now - self._last
        self._last = now


def pipeline(settings: Settings) -> Settings:
    """Parquet to shards with every default step and an evaluation to look for.

    The tokenizer is that of `tokenizer`; it is made here where that is empty.
    """
    from slm import corpus, shards, tokenizer
    from slm.compose import load_recipe

    source = {"kind": "parquet", "path": settings["path"], "id_column": "id", "licence": "CC0-1.0", "name": "made"}
    words = [f"{key}: {value}" for key, value in source.items()]
    given, items = settings["tokenizer"], Path(settings["path"]).with_suffix(".txt")
    write_evaluation(items, settings["seed"])
    recipe = load_recipe(
        "recipe=smoke", f"runs_dir={settings['runs']}", f"run={settings['run']}",
        f"corpus.sources=[{{{', '.join(words)}}}]", "corpus.validation_fraction=0.01",
        "tokenizer.vocab_size=16384", "tokenizer.threads=1", "model.vocab_size=16384", "shards.threads=1",
        "shards.seq_len=2048", "model.max_seq_len=2048", "train.batch_tokens=16384", "train.micro_batch_rows=8",
        f"corpus.decontamination.against=[{{name: made, path: {items}}}]",
        *([f"artifacts.tokenizer={given}"] if given else []), *settings.get("words", []),
    )  # fmt: skip
    seconds: dict[str, float] = {}
    with Profile() as profile:
        for name, stage in (("corpus", corpus), ("tokenizer", tokenizer), ("shards", shards)):
            watch, before = Stopwatch(settings), os.times()
            stage.run(recipe)
            after = os.times()
            children = after.children_user + after.children_system - before.children_user - before.children_system
            seconds[name] = watch() + (children if settings["cpu_seconds"] else 0.0)
    items.unlink()
    kept = recipe.artifact("corpus").counts
    return {
        "seconds": seconds,
        "profile": dict(profile.seconds.most_common()),
        "skipped": kept["skipped"],
        "kept_bytes": sum(kept[split]["bytes"] for split in ("train", "validation")),
        "tokens": recipe.artifact("shards").counts["train"]["tokens"],
    }


# --- steps alone ----------------------------------------------------------------------------------------------------


def alternate(rounds: int, settings: Settings, *sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side; they take turns, and the first turn of each is not counted."""
    seconds: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, found in zip(sides, seconds, strict=True):
            watch = Stopwatch(settings)
            side()
            if number:
                found.append(watch())
    return [statistics.median(found) for found in seconds]


def cleaning(settings: Settings) -> Settings:
    """Characters a second of each step that `corpus=web` lists, of the texts that reach it."""
    from slm.compose import load_recipe
    from slm.corpus import Document
    from slm.corpus.cleaning.cleaner import rates

    steps = load_recipe("recipe=smoke", "corpus=web").corpus.steps
    texts = texts_of(settings["bytes"], 1)
    documents = [Document(text, str(number), "made", "CC0-1.0", "") for number, text in enumerate(texts)]
    rates(steps, documents[:WARMED_UP])
    return {"rates": rates(steps, documents, time.process_time if settings["cpu_seconds"] else time.perf_counter)}


def encode(settings: Settings) -> Settings:
    """Documents to ids as shards take them, beside SentencePiece's own batch encoding of the same texts."""
    import sentencepiece

    from slm.corpus import Document
    from slm.shards.encode import encode as encode_documents
    from slm.tokenizer import Tokenizer

    folder = Path(settings["tokenizer"])
    tokenizer = Tokenizer.load(folder)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    texts = texts_of(settings["bytes"], 1)
    documents = [Document(text, str(number), "made", "CC0-1.0", "") for number, text in enumerate(texts)]
    size = sum(len(text.encode()) for text in texts)

    def ours() -> None:
        for _ in encode_documents(documents, tokenizer, 1):
            continue

    mine, theirs = alternate(
        settings["rounds"], settings, ours, lambda: plain.encode(texts, out_type="numpy", num_threads=1)
    )
    return {"ours": size / mine, "sentencepiece": size / theirs, "bytes": size}


def encode_part(settings: Settings) -> Settings:
    """One process's part of the documents: waits for a line after it is ready, then encodes its part and says so."""
    from slm.corpus import Document
    from slm.shards.encode import encode as encode_documents
    from slm.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(Path(settings["tokenizer"]))
    texts = texts_of(settings["bytes"], 1)[settings["part"] :: settings["parts"]]
    documents = [Document(text, str(number), "made", "CC0-1.0", "") for number, text in enumerate(texts)]
    for _ in range(settings["rounds"] + 1):
        print("ready", flush=True)
        sys.stdin.readline()
        watch = Stopwatch(settings)
        for _ in encode_documents(documents, tokenizer, 1):
            continue
        print(watch(), flush=True)
    return {}


def encode_processes(settings: Settings) -> Settings:
    """The same documents by one process and by two, taking turns: how many times as fast two are."""
    teams = {
        parts: [
            subprocess.Popen(
                [sys.executable, __file__, "encode_part", json.dumps({**settings, "part": part, "parts": parts})],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for part in range(parts)
        ]
        for parts in (1, 2)
    }  # fmt: skip
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(settings["rounds"] + 1):
        for parts, team in teams.items():
            for process in team:
                read_line(process)
            for process in team:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            slowest = max(float(read_line(process)) for process in team)
            if number:
                seconds[parts].append(slowest)
    for team in teams.values():
        for process in team:
            process.communicate()
    one, two = (statistics.median(seconds[parts]) for parts in (1, 2))
    return {"one": one, "two": two, "times": one / two}


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints; ends this one where there is none."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"bench_data: a process ended with status {process.wait()}")
    return line.strip()


def minhash(settings: Settings) -> Settings:
    """MinHash signatures a second of prepared sets of hashes, ours beside datasketch's of as many values.

    Neither side hashes here. Besides, the whole way from text to the keys of a signature, ours only.
    """
    from datasketch import MinHash

    from slm.corpus.duplicates.config import DuplicatesConfig
    from slm.corpus.duplicates.sketch import Scheme, Sketcher, signatures

    config = DuplicatesConfig()
    bands, rows = config.shape
    sketcher, texts = Sketcher(Scheme.of(config)), texts_of(settings["bytes"], 1)
    shingles, borders = sketcher.shingles(texts)
    sets = [shingles[low:high].tolist() for low, high in itertools.pairwise(borders.tolist())]

    def theirs() -> None:
        for one in sets:
            MinHash(num_perm=bands * rows, hashfunc=lambda value: value & 0xFFFFFFFF).update_batch(one)

    sides = (lambda: signatures(shingles, borders, bands * rows), theirs, lambda: sketcher.keys(texts))
    ours, other, whole = alternate(settings["rounds"], settings, *sides)
    size = sum(len(text.encode()) for text in texts)
    return {"ours": len(texts) / ours, "datasketch": len(texts) / other, "text_bytes_per_second": size / whole}


def packing(settings: Settings) -> Settings:
    """Documents a second that are packed in windows of 10,000, into rows of 512 and of 2,048 tokens."""
    from slm.shards.pack import pack

    draw = np.random.default_rng(0)
    sizes = [
        draw.lognormal(np.log(median), spread, int(share * 10_000))
        for share, median, spread in DOCUMENTS_A_LENGTH.values()
    ]
    lengths = draw.permutation(np.concatenate(sizes)).astype(np.int64) + 2
    found: Settings = {"documents": len(lengths)}
    for seq_len in (512, 2048):
        (seconds,) = alternate(settings["rounds"], settings, lambda size=seq_len: pack(lengths, size, "best_fit"))
        packed = pack(lengths, seq_len, "best_fit")
        found[f"rate_{seq_len}"] = len(lengths) / seconds
        found[f"used_{seq_len}"] = float(packed.length_P.sum() / (packed.num_rows * seq_len))
        found[f"lost_{seq_len}"] = int(lengths.sum() + len(packed.document_P) - len(lengths) - packed.length_P.sum())
        found[f"split_{seq_len}"] = len(np.unique(packed.document_P[packed.start_P > 0])) / len(lengths)
    return found


def loader(settings: Settings) -> Settings:
    """Rows and tokens a second that loader and cursor hand out, of shards with many record batches."""
    found: Settings = {}
    for seq_len in (256, 512, 2048):
        with tempfile.TemporaryDirectory() as folder:
            found[f"tokens_{seq_len}"] = loader_rate(Path(folder), seq_len, settings)
    found["rows_2048"] = found["tokens_2048"] / 2048
    return found


def loader_rate(folder: Path, seq_len: int, settings: Settings) -> float:
    """Tokens a second in steps of 64 rows, in micro-batches of 8."""
    from slm.core.allocator import keep_freed_memory
    from slm.core.artifact import Spec, make
    from slm.core.console import speak, speaking
    from slm.shards.config import ShardsConfig
    from slm.shards.loader import Loader
    from slm.shards.stage import count
    from slm.shards.units import Encoded
    from slm.shards.write import Layout, ShardWriter, Tally

    draw = np.random.default_rng(0)
    layout = Layout(seq_len, "best_fit", 2_000, 4_096, 50_000, 3, "00" * 32)

    def documents() -> Iterator[np.ndarray]:
        for length in draw.lognormal(np.log(490), 1.0, settings["tokens"] // 800).astype(int):
            yield draw.integers(262, 50_000, length + 2).astype(np.int32)

    def build(draft: Any) -> None:
        with ShardWriter(draft.path, "train-made", layout) as writer:
            for ids in documents():
                writer.add(Encoded(ids, 4 * len(ids), "", "made", "", ""))
        draft.counts.update(count({"made": writer.tally}, Tally(), layout))

    aloud = speaking()
    speak(False)
    artifact = make(folder / "shards", Spec("shards", ShardsConfig(seq_len=seq_len)), build)
    speak(aloud)
    keep_freed_memory()  # as the training does
    stream = Loader(artifact, batch_rows=64, micro_batch_rows=8, seed=0)
    for _ in range(20):
        stream.step()
    steps, watch, until = 0, Stopwatch(settings), time.perf_counter() + settings["loader_seconds"]
    while time.perf_counter() < until:
        stream.step()
        steps += 1
    return steps * 64 * seq_len / watch()


PARTS: dict[str, Callable[[Settings], Settings]] = {
    "write_parquet": write_parquet,
    "pipeline": pipeline,
    "cleaning": cleaning,
    "encode": encode,
    "encode_part": encode_part,
    "encode_processes": encode_processes,
    "minhash": minhash,
    "packing": packing,
    "loader": loader,
}

if __name__ == "__main__":
    main()
