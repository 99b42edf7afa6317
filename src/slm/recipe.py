"""The one frozen `Recipe` that every stage receives, and the rules between its sections.

In: plain dictionaries from YAML and the command line (see `compose.py`). Out: a `Recipe`, or every
problem at once. Importing this module imports each package's `config.py` and nothing heavy: it works
without torch.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from slm.compress.config import CompressConfig
from slm.core.artifact import MANIFEST, Artifact, newest, open_artifact
from slm.core.config import Config
from slm.core.errors import ProblemsError, UserError
from slm.core.lineage import lineage
from slm.corpus.config import CorpusConfig
from slm.distill.config import DistillConfig
from slm.evaluate.config import CHOICE, EvaluateConfig
from slm.export.config import ExportConfig
from slm.model.config import ModelConfig
from slm.objective.config import ObjectiveConfig
from slm.rationales.config import RationalesConfig
from slm.release.config import ReleaseConfig
from slm.report.config import ReportConfig
from slm.safety.config import SafetyConfig
from slm.serve.config import ServeConfig
from slm.shards.config import ShardsConfig
from slm.sweep.config import SweepConfig
from slm.tokenizer.config import TokenizerConfig
from slm.train.config import TrainConfig

Stage = Literal[
    "corpus", "tokenizer", "shards", "distill", "train", "evaluate", "compress", "export", "serve", "report", "safety",
    "release",
]  # fmt: skip
STAGES: tuple[Stage, ...] = typing.get_args(Stage)
CHAIN = STAGES[: STAGES.index("report") + 1]
"""What a pipeline runs unless it is told where to stop: nothing leaves the house by default."""


class ArtifactPaths(Config):
    """Artifacts taken from elsewhere instead of made in this run."""

    corpus: str = ""
    """Folder of a corpus."""
    tokenizer: str = ""
    """Folder of a tokenizer."""
    shards: str = ""
    """Folder of shards."""
    distill: str = ""
    """Folder of a teacher's stored distributions of these shards."""
    train: str = ""
    """Folder of a checkpoint, or of a train stage, whose newest checkpoint is taken; what it was made from, with it."""


class Recipe(Config):
    """A whole run: sections in the order in which the data meets them."""

    run: str = Field("quickstart", pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,/+-]*$")
    """Name of the run; its artifacts lie in runs_dir/run."""
    runs_dir: str = "runs"
    """Folder of all runs."""
    seed: int = Field(1234, ge=0)
    """The seed from which every other is derived."""
    redo: bool = False
    """Replace artifacts that were made from other settings, instead of refusing."""
    verify: Literal["small", "full"] = "small"
    """Hash files up to 64 MiB when reading an artifact, or all."""
    start: Stage = "corpus"
    """First stage of a pipeline (`from=` on the command line)."""
    stop: Stage = "report"
    """Last stage of a pipeline (`to=` on the command line); a release is made only where it is named here."""
    artifacts: ArtifactPaths = ArtifactPaths()
    rationales: RationalesConfig = RationalesConfig()
    corpus: CorpusConfig = CorpusConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    shards: ShardsConfig = ShardsConfig()
    distill: DistillConfig = DistillConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compress: CompressConfig = CompressConfig()
    export: ExportConfig = ExportConfig()
    serve: ServeConfig = ServeConfig()
    report: ReportConfig = ReportConfig()
    safety: SafetyConfig = SafetyConfig()
    release: ReleaseConfig = ReleaseConfig()
    sweep: SweepConfig = SweepConfig()

    def folder(self, stage: Stage) -> Path:
        """Where a stage's artifact lies: in the run, unless `artifacts` names another place."""
        elsewhere = getattr(self.artifacts, stage, "")
        return Path(elsewhere) if elsewhere else Path(self.runs_dir) / self.run / stage

    def place(self, stage: Stage) -> Path:
        """Where an earlier stage's artifact is read from: its folder, or what `artifacts.train` was made from."""
        folder, checkpoint = self.folder(stage), newest(Path(self.artifacts.train))
        own = getattr(self.artifacts, stage, stage) or (newest(folder) / MANIFEST).is_file()
        if own or not self.artifacts.train or not (checkpoint / MANIFEST).is_file():
            return folder
        behind = (one for _, one in lineage(checkpoint) if isinstance(one, Artifact) and one.kind == stage)
        return next((one.path for one in behind), folder)

    def artifact(self, stage: Stage) -> Artifact:
        """The finished artifact of an earlier stage; `UserError` with the way out where it is missing."""
        folder = self.place(stage)
        if not (newest(folder) / MANIFEST).is_file():
            other = f", or name another by artifacts.{stage}=FOLDER" if stage in ArtifactPaths.model_fields else ""
            raise UserError(
                f"there is no {stage} in {folder}; make it with the same settings by slm pipeline to={stage}{other}"
            )
        return open_artifact(newest(folder), stage, verify=self.verify)


def build_recipe(values: Mapping[str, Any]) -> Recipe:
    """Validate plain values into a `Recipe`; raises `ProblemsError` with every problem at once."""
    problems: list[str] = []
    sections: dict[str, Any] = {}
    for name, value in values.items():
        if name not in Recipe.model_fields:
            problems.append(_unknown((name,)))
            continue
        kind = Recipe.model_fields[name].annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            try:
                sections[name] = kind.model_validate(value)
            except ValidationError as error:
                problems += _readable(error, (name,))
        else:
            sections[name] = value
    try:
        recipe = Recipe.model_validate(sections)
    except ValidationError as error:
        problems += _readable(error, ())
        sound = {name: value for name, value in sections.items() if isinstance(value, Config)}
        recipe = Recipe(**sound)
    broken = {problem.split(":")[0].split(".")[0] for problem in problems}
    problems += [text for needs, rule in RULES if not broken & needs for text in rule(recipe)]
    if problems:
        raise ProblemsError(problems)
    return recipe


def _rows_fit_model(recipe: Recipe) -> Iterator[str]:
    if recipe.shards.seq_len > recipe.model.max_seq_len:
        yield (
            f"shards.seq_len ({recipe.shards.seq_len:,}) must not exceed model.max_seq_len "
            f"({recipe.model.max_seq_len:,}); lower it or pick a longer model"
        )


def _vocabularies_agree(recipe: Recipe) -> Iterator[str]:
    if recipe.tokenizer.vocab_size != recipe.model.vocab_size:
        yield (
            f"model.vocab_size ({recipe.model.vocab_size:,}) must equal tokenizer.vocab_size "
            f"({recipe.tokenizer.vocab_size:,}); set both to the same number"
        )


def _steps_are_whole(recipe: Recipe) -> Iterator[str]:
    sizes = {"batch_tokens": recipe.train.batch_tokens, "batch_ramp.start_tokens": recipe.train.batch_ramp.start_tokens}
    if recipe.train.micro_batch_rows == "auto":
        for name, tokens in sizes.items():
            if tokens % recipe.shards.seq_len:
                yield f"train.{name} ({tokens:,}) must be a multiple of shards.seq_len ({recipe.shards.seq_len:,})"
        return
    micro = recipe.train.micro_batch_rows * recipe.shards.seq_len
    for name, tokens in sizes.items():
        if tokens % micro:
            yield (
                f"train.{name} ({tokens:,}) must be a multiple of train.micro_batch_rows x "
                f"shards.seq_len ({recipe.train.micro_batch_rows} x {recipe.shards.seq_len:,} = {micro:,}); "
                f"the nearest is {max(1, round(tokens / micro)) * micro:,}"
            )


def _rows_can_be_cut(recipe: Recipe) -> Iterator[str]:
    seq_len = recipe.shards.seq_len
    for length in recipe.train.curriculum.lengths:
        if seq_len % length or length == seq_len:
            near = max(n for n in range(1, seq_len) if seq_len % n == 0 and n <= max(length, 1))
            yield (
                f"train.curriculum.lengths ({length:,}) must divide shards.seq_len ({seq_len:,}) and be shorter; "
                f"the nearest below is {near:,}"
            )


def _answers_are_written_in_whole_rows(recipe: Recipe) -> Iterator[str]:
    if recipe.objective.distill.on_policy and recipe.train.curriculum.lengths:
        yield (
            "objective.distill.on_policy writes answers into rows as they were packed, but train.curriculum.lengths "
            f"({', '.join(map(str, recipe.train.curriculum.lengths))}) would cut them; leave one of them out"
        )


def _sources_have_losses(recipe: Recipe) -> Iterator[str]:
    if recipe.train.source_sampling.every_steps and recipe.objective.kind == "distill":
        yield (
            f"train.source_sampling.every_steps ({recipe.train.source_sampling.every_steps}) goes by the loss of each "
            "source, which objective.kind=distill does not tell apart; set it to 0"
        )


def _head_may_be_tied(recipe: Recipe) -> Iterator[str]:
    kind = recipe.train.optimizer.parametrization
    if recipe.model.tie_embeddings and kind != "standard":
        yield (
            f"train.optimizer.parametrization ({kind}) needs an output head of its own, since embedding and head "
            "scale differently with width; set model.tie_embeddings=false"
        )


def _shares_name_sources(recipe: Recipe) -> Iterator[str]:
    names = [source.name or source.kind for source in recipe.corpus.sources]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"corpus.sources: two sources are named {name}; give each a name of its own"
    mixed = dict.fromkeys(entry.source for stage in recipe.shards.mixture for entry in stage.sources)
    for key, given in (("shards.mixture", mixed), ("tokenizer.weights", recipe.tokenizer.weights)):
        if given and set(given) != set(names):
            yield f"{key} ({', '.join(given)}) must name exactly the sources of the corpus ({', '.join(names)})"


def _context_fits(recipe: Recipe) -> Iterator[str]:
    context, stride = recipe.evaluate.context_tokens, recipe.evaluate.stride_tokens
    if context > recipe.model.max_seq_len:
        yield (
            f"evaluate.context_tokens ({context:,}) must not exceed model.max_seq_len "
            f"({recipe.model.max_seq_len:,}); lower it or pick a longer model"
        )
    if stride > (context or recipe.shards.seq_len):
        yield f"evaluate.stride_tokens ({stride:,}) must not exceed the window ({context or recipe.shards.seq_len:,})"


def _tasks_while_training(recipe: Recipe) -> Iterator[str]:
    cheap = [task.name for task in recipe.evaluate.task_files if task.layout in (*CHOICE, "text")]
    for name in recipe.train.tasks:
        if name not in cheap:
            yield (
                f"train.tasks ({name}) must name one of evaluate.task_files that is multiple choice or text "
                f"({', '.join(cheap) or 'there is none'}); describe it there, or run it by slm evaluate"
            )


def _store_is_read(recipe: Recipe) -> Iterator[str]:
    if recipe.artifacts.distill and not recipe.objective.reads_store:
        yield (
            f"artifacts.distill ({recipe.artifacts.distill}) has no effect, since the objective reads no store; set "
            "objective.kind=distill and objective.distill.source=store, or leave it out"
        )


def _sweeps_name_settings(recipe: Recipe) -> Iterator[str]:
    space = ((one.key, "space") for one in recipe.sweep.space)
    changes = ((key, "changes") for change in recipe.sweep.changes for key in change)
    chain = ((key, f"chain.{step.name}.settings") for step in recipe.sweep.chain for key in step.settings)
    for key, where in (*space, *changes, *chain):
        if key.split(".")[0] not in ("model", "objective", "train"):
            yield f"sweep.{where} ({key}) must name settings of model, objective or train, since runs share their rows"
        elif field_of(key) is None:
            yield f"sweep.{where}: {_unknown(tuple(key.split('.')))}"
        elif is_section(key):
            yield f"sweep.{where} ({key}) is a section; name the keys in it"


def _stages_in_order(recipe: Recipe) -> Iterator[str]:
    if STAGES.index(recipe.start) > STAGES.index(recipe.stop):
        yield f"from={recipe.start} comes after to={recipe.stop}; the order is {' -> '.join(STAGES)}"


RULES: tuple[tuple[frozenset[str], Callable[[Recipe], Iterator[str]]], ...] = (
    (frozenset({"shards", "model"}), _rows_fit_model),
    (frozenset({"tokenizer", "model"}), _vocabularies_agree),
    (frozenset({"train", "shards"}), _steps_are_whole),
    (frozenset({"train", "shards"}), _rows_can_be_cut),
    (frozenset({"objective", "train"}), _answers_are_written_in_whole_rows),
    (frozenset({"objective", "train"}), _sources_have_losses),
    (frozenset({"train", "model"}), _head_may_be_tied),
    (frozenset({"corpus", "shards", "tokenizer"}), _shares_name_sources),
    (frozenset({"evaluate", "model", "shards"}), _context_fits),
    (frozenset({"evaluate", "train"}), _tasks_while_training),
    (frozenset({"artifacts", "objective"}), _store_is_read),
    (frozenset({"sweep"}), _sweeps_name_settings),
    (frozenset({"start", "stop"}), _stages_in_order),
)


def known_keys(config: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the schema, sections included."""
    for name, field in config.model_fields.items():
        yield f"{prefix}{name}"
        nested = _config_of(field.annotation)
        if nested is not None:
            yield from known_keys(nested, f"{prefix}{name}.")
        for choice, kind in _choices_of(field.annotation).items():
            yield from known_keys(kind, f"{prefix}{name}.{choice}.")


def field_of(key: str) -> FieldInfo | None:
    """The declaration behind a dotted key; None where there is no such key."""
    config: type[BaseModel] | None = Recipe
    choices: dict[str, type[BaseModel]] = {}
    field = None
    for part in key.split("."):
        if part in choices:
            config, choices = choices[part], {}
            field = FieldInfo(annotation=config, description=inspect.getdoc(config))
            continue
        if config is None or part not in config.model_fields:
            return None
        field = config.model_fields[part]
        config, choices = _config_of(field.annotation), _choices_of(field.annotation)
    return field


def is_section(key: str) -> bool:
    """Whether a dotted key holds keys, such as `train.schedule`, and no value of its own."""
    field = field_of(key)
    return field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, Config)


def _readable(error: ValidationError, prefix: tuple[str, ...]) -> list[str]:
    problems: list[str] = []
    for item in error.errors():
        location = (*prefix, *map(str, item["loc"]))
        dotted = ".".join(location)
        if item["type"] == "extra_forbidden":
            problems.append(_unknown(location))
            continue
        if item["type"] == "too_short" and any(problem.startswith(f"{dotted}.") for problem in problems):
            continue  # a list whose items are wrong counts as empty; the items have been named
        message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        found = "" if isinstance(item["input"], dict | Config) else f", found {item['input']!r}"
        problems.append(f"{dotted}: {message[0].lower()}{message[1:]}{found}")
    return problems


def _unknown(location: tuple[str, ...]) -> str:
    """`model.layres: no such key; did you mean layers?`, or where else the key exists."""
    dotted, name = ".".join(location), location[-1]
    parent = ".".join(part for part in location[:-1] if not part.isdigit())
    siblings = [key.removeprefix(f"{parent}.") for key in known_keys() if key.rpartition(".")[0] == parent]
    if not parent:
        siblings.insert(0, "recipe")  # no setting, but the word most often typed
    below = {key.rpartition(".")[2]: key for key in known_keys() if key.startswith(f"{location[0]}.")}
    near = difflib.get_close_matches(name, siblings, 1, 0.6)
    if near and name not in below:  # the very name deeper down is meant sooner than a like one here
        return f"{dotted}: no such key; did you mean {near[0]}?"
    for keys in (below, {key.rpartition(".")[2]: key for key in known_keys()}):
        near = difflib.get_close_matches(name, list(keys), 1, 0.75)
        if near:
            return f"{dotted}: no such key; did you mean {keys[near[0]]}?"
    return f"{dotted}: no such key; here are {', '.join(siblings)}"


def _config_of(annotation: Any) -> type[BaseModel] | None:
    """The config class inside `X`, `X | None`, `tuple[X, ...]` or `list[X]`, if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in (typing.Union, tuple, list):
        for argument in typing.get_args(annotation):
            found = _config_of(argument)
            if found is not None:
                return found
    return None


def _choices_of(annotation: Any) -> dict[str, type[BaseModel]]:
    """The config classes of a list whose items say what they are, by the word that they say it with.

    `corpus.steps.gopher_quality.min_words` is a key of such an item.
    """
    if typing.get_origin(annotation) in (tuple, list):
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is not typing.Annotated:
        return {}
    union, *notes = typing.get_args(annotation)
    tags = [note.discriminator for note in notes if isinstance(note, FieldInfo) and isinstance(note.discriminator, str)]
    return {str(kind.model_fields[tag].default): kind for tag in tags for kind in typing.get_args(union)}
