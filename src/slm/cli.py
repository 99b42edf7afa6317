"""The console command `slm`: one word a stage, and a few that look at what is there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from slm import __version__
from slm.compose import guarded, recipe_files
from slm.core.artifact import Artifact
from slm.core.console import say, size
from slm.core.errors import ProblemsError
from slm.core.lineage import lineage
from slm.diff import diff
from slm.explain import explain
from slm.recipe import STAGES

RUNNABLE = {
    "pipeline": "run a recipe's stages in order",
    "corpus": "text to clean documents",
    "tokenizer": "documents to a frozen vocabulary",
    "shards": "documents to token-packed rows",
    "distill": "what a teacher says of the rows, stored for any number of students",
    "train": "rows to a model, resumable to the token",
    "evaluate": "model to numbers beside their baselines",
    "compress": "model to low-bit integers, with what that cost",
    "export": "model to Hugging Face and GGUF files, each proved",
    "serve": "answers of the exported model, by llama.cpp",
    "report": "one HTML page about the run",
    "safety": "what the model does that it should not, with bounds",
    "release": "the run to a bundle that may leave, or every reason why not",
    "card": "what is in the run's corpus, as HTML and Markdown",
    "plan": "what a training will take: memory, time, cost",
    "lr_range": "which learning rates train it, from a short sweep",
    "coordinate_check": "whether its settings hold on wider and deeper models",
    "rationales": "a teacher's short reasons for known answers, kept where its own answer is right",
    "sweep": "search its settings, with what the best of them are worth over seeds",
    "chain": "its runs one after the other, each from the last, with what each was worth",
    "generate": "continue a prompt",
    "chat": "talk to a model",
}

ARGUMENT_WORDS = {
    "corpus audit RUN [PAGE.html]": ("slm.corpus.cleaning.show", "show", "what was kept beside what was dropped"),
    "corpus score GOOD BAD FOLDER": ("slm.corpus.cleaning.quality_model", "train", "a quality model from two sets"),
    "safety classifier LABELLED FOLDER": (
        "slm.safety.classifier",
        "train",
        "a toxicity classifier from labelled texts",
    ),
    "tokenizer compare A B [text=PATH]": (
        "slm.tokenizer.compare",
        "compare",
        "vocabularies side by side, ours or others'",
    ),
    "adapter CHECKPOINT FOLDER": (
        "slm.adapter",
        "adapter",
        "the adapter of a run with train.lora, for peft and llama.cpp",
    ),
    "verify BUNDLE [corpus=FOLDER]": (
        "slm.release.verify",
        "verify",
        "whether a release is whole and says its golden prompts here",
    ),
    "compare A B [PAGE.html]": (
        "slm.compare",
        "compare",
        "two evaluated runs on the same items: what differs; or a run's flavours: cost, size, speed",
    ),
    "pick RUN [most=BITS]": ("slm.pick", "pick", "which flavour of a model suits this machine, and why"),
    "scaling RUN RUN ... [PAGE.html]": ("slm.scaling", "scaling", "what size and tokens buy: a law from five runs on"),
    "ablation RUN RUN ... [PAGE.html]": (
        "slm.ablation",
        "ablation",
        "what each change of a recipe is worth, over seeds; recipe=NAME runs its sweep.changes",
    ),
    "power RUN": ("slm.power", "power", "how small a difference can be found; or items=N or difference=D"),
}
"""Commands that take names instead of settings: module, function and a word on it."""


def main() -> None:
    """Dispatch `slm WORD ...`."""
    guarded(lambda: dispatch(sys.argv[1:]))


def dispatch(arguments: list[str]) -> None:
    """Run one command; `ProblemsError` with the known words where it is none."""
    word, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if word in ("-h", "--help", "help"):
        say(usage())
    elif word == "--version":
        say(f"slm {__version__}")
    elif line := next((line for line in ARGUMENT_WORDS if words_of(line) == arguments[: len(words_of(line))]), ""):
        name, function, _ = ARGUMENT_WORDS[line]
        getattr(importlib.import_module(name), function)(arguments[len(words_of(line)) :])
    elif word in RUNNABLE:
        sys.argv = [f"slm {word}", *rest]
        module = f"slm.{word}.__main__" if word in (*STAGES, "sweep", "rationales") else f"slm.{word}"
        importlib.import_module(module).main()
    elif word == "explain":
        say(explain(rest))
    elif word == "diff":
        say(diff(rest))
    elif word == "lineage":
        if len(rest) != 1:
            raise ProblemsError(["usage: slm lineage PATH, such as runs/quickstart/export/model-f16.gguf"])
        say(lineage_text(Path(rest[0])))
    elif word == "consolidate":
        if len(rest) != 2:
            raise ProblemsError(["usage: slm consolidate CHECKPOINT FOLDER, such as runs/quickstart/train one_file"])
        importlib.import_module("slm.consolidate").consolidate(*map(Path, rest))
    elif word == "recipes":
        say(recipes_text())
    else:
        beside = [words_of(line)[0] for line in ARGUMENT_WORDS if len(words_of(line)) == 1]
        known = ", ".join([*RUNNABLE, *beside, "explain", "lineage", "diff", "consolidate", "recipes"])
        raise ProblemsError([f"slm {word}: no such command; known are {known}"])


def words_of(line: str) -> list[str]:
    """The words of a line of `ARGUMENT_WORDS` that are typed as they stand."""
    return [word for word in line.split() if word.isalpha() and word.islower()]


def usage() -> str:
    """The help text."""
    words = {
        **{f"{name} recipe=NAME [KEY=VALUE ...]": text for name, text in RUNNABLE.items()},
        **{line: text for line, (_, _, text) in ARGUMENT_WORDS.items()},
        "explain recipe=NAME KEY": "a setting's meaning, value and where it came from",
        "lineage PATH": "what a file was made from, back to the text",
        "diff A B": "what changed between two artifacts: settings, inputs, counts, files",
        "consolidate CHECKPOINT FOLDER": "the model of a checkpoint as one safetensors file",
        "recipes": "the known recipes",
    }
    width = max(map(len, words))
    return "\n".join([f"slm {__version__}", *(f"  slm {name.ljust(width)}  {text}" for name, text in words.items())])


def lineage_text(path: Path) -> str:
    """The chain of artifacts behind `path`, one a line, indented by depth; each is shown in full once."""
    if not path.exists():
        raise ProblemsError([f"{path} does not exist; give a file or folder of a run, such as runs/quickstart/export"])
    lines: list[str] = []
    shown: set[str] = set()
    skipping = -1  # depth of an artifact shown before, whose parents need no second showing
    for depth, artifact in lineage(path):
        if 0 <= skipping < depth:
            continue
        skipping = -1
        indent = "  " * depth
        if isinstance(artifact, str):
            lines.append(f"{indent}{artifact}")
        elif artifact.fingerprint in shown:
            lines.append(f"{indent}{artifact.kind} {artifact.fingerprint[:12]} (see above)")
            skipping = depth
        else:
            shown.add(artifact.fingerprint)
            lines.append(f"{indent}{artifact.kind} {artifact.fingerprint[:12]} {artifact.path}{_facts(artifact)}")
            if artifact.kind == "corpus":
                lines += [f"{indent}  {line}" for line in _sources(artifact)]
    return "\n".join(lines)


def _facts(artifact: Artifact) -> str:
    total = sum(record["size_bytes"] for record in artifact.manifest["files"].values())
    made = f", made {artifact.manifest['created_at']} at commit {artifact.manifest['git_commit'][:12]}"
    return f" ({size(total)}, seed {artifact.manifest['seed']}{made})"


def _sources(artifact: Artifact) -> list[str]:
    return [
        f"text {name}: {figures['documents']:,} documents, {size(figures['bytes'])}, "
        f"{figures['licence']}, from {figures['origin']}"
        for name, figures in artifact.counts["sources"].items()
    ]


def recipes_text() -> str:
    """The known recipes and what each makes, from its README."""
    files = recipe_files()
    width = max(map(len, files))
    return "\n".join(f"{name.ljust(width)}  {_makes(file.with_name('README.md'))}" for name, file in files.items())


def _makes(readme: Path) -> str:
    """The cell beside "makes" in a recipe's README; nothing where a user's own recipe has none."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    found = re.search(r"^\| makes \| (.*?) \|$", text, re.MULTILINE)
    return found.group(1) if found else ""


if __name__ == "__main__":
    main()
