"""From a command line to a running stage: Hydra composes, pydantic checks, errors are sentences.

`recipes/NAME/config.yaml` becomes option NAME of Hydra's group `recipe`; `configs/SECTION/OPTION.yaml`
becomes option OPTION of group SECTION. Both are put into Hydra's ConfigStore at start, so that they are
found alike from a checkout, a wheel or a container. Hydra's own run folders and logging are off.

Every `key=value` is handed to Hydra as a forced override, so that a misspelt key reaches our schema and
is reported with all other problems instead of ending at Hydra's first complaint.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from slm.core.config import Config
from slm.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, ProblemsError, UserError, is_disk_full
from slm.recipe import Recipe, build_recipe, known_keys

DEFAULT_RECIPE = "quickstart"
VERBATIM_KEYS = frozenset({"serve.prompt", "serve.model"})
"""Keys whose value on the command line is text as it stands, not Hydra's grammar; so no sweep over them either."""
HELP = """slm ${hydra.job.name}: KEY=VALUE ... changes settings; KEY is dotted, as in train.tokens=1e6

recipe=NAME     start from a recipe: %s
SECTION=OPTION  swap in a piece: %s
-m A=1,2 B=3,4  run every combination
--cfg job       print the composed settings and stop

slm explain recipe=NAME KEY prints what a key means, its value and where that came from.
$FLAGS_HELP
"""


def shipped_folder(name: str) -> Path:
    """The folder `recipes` or `configs`: inside the package when installed, at the checkout's top else."""
    here = Path(__file__).parent
    installed = here / f"_{name}"
    return installed if installed.is_dir() else here.parents[1] / name


def recipe_files() -> dict[str, Path]:
    """Every known recipe by name; a `recipes/` folder where the command runs adds the user's own."""
    folders = dict.fromkeys([shipped_folder("recipes"), Path.cwd() / "recipes"])
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.glob("*/config.yaml")):
            found.setdefault(file.parent.name, file)
    return found


def option_files() -> dict[str, dict[str, Path]]:
    """Every reusable piece, as `{section: {option: file}}`."""
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(shipped_folder("configs").glob("*/*.yaml")):
        found.setdefault(file.parent.name, {})[file.stem] = file
    return found


def load_recipe(*overrides: str) -> Recipe:
    """The recipe that `overrides` (as typed on a command line) name, checked."""
    from hydra import compose, initialize
    from omegaconf import OmegaConf

    register()
    with initialize(version_base="1.3", config_path=None):
        composed = compose("slm", overrides=prepare_overrides(overrides))
    return build_recipe(_plain(OmegaConf.to_container(composed, resolve=True)))


def command(name: str, run: Callable[[Recipe], object], shortcuts: Mapping[str, str] | None = None) -> None:
    """Run one command as the process's main job: parse `sys.argv`, call `run(recipe)`, exit.

    `shortcuts` maps words of this command to keys, such as `prompt` to `serve.prompt`.
    """
    import hydra
    from omegaconf import DictConfig, OmegaConf

    def job(composed: DictConfig) -> None:
        guarded(lambda: run(build_recipe(_numbered(_plain(OmegaConf.to_container(composed, resolve=True))))))

    def start() -> None:
        register()
        sys.argv = [f"slm {name}", *prepare_overrides(sys.argv[1:], shortcuts or {})]
        job.__module__ = f"slm.{name}"  # names the job and gives Hydra a package to anchor its search path
        hydra.main(version_base="1.3", config_path=None, config_name="slm")(job)()

    guarded(start)


def guarded(work: Callable[[], object]) -> None:
    """Run `work`; what a person can mend ends in a sentence and an exit status, never in a trace."""
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        work()
    except UserError as error:
        _leave(error.exit_status, "\n".join(f"error: {line}" for line in str(error).splitlines()))
    except KeyboardInterrupt:
        _leave(
            EXIT_INTERRUPTED, "interrupted: everything already made is kept; the same command goes on from where it was"
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:
        if not is_disk_full(error):
            raise
        _leave(
            EXIT_FAILED,
            f"error: the disk is full ({error.filename or error}); free some space and run the same command",
        )
    finally:
        signal.signal(signal.SIGTERM, previous)


def prepare_overrides(arguments: Sequence[str], shortcuts: Mapping[str, str] | None = None) -> list[str]:
    """Command-line words as Hydra wants them; an unknown recipe or option is refused with the known ones."""
    options, prepared = option_files(), []
    strays = [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if "=" not in word and not word.startswith(("-", "~")) and not before.startswith("-")
    ]
    if strays:
        raise ProblemsError([f"{word}: settings are given as key=value, such as recipe=quickstart" for word in strays])
    words = {"from": "start", "to": "stop", **(shortcuts or {})}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = words.get(key, key)
        if not equals or key.startswith(("-", "+", "~", "hydra")):
            prepared.append(argument)
        elif key == "recipe":
            _check_choice("recipe", value, list(recipe_files()))
            prepared.append(argument)
        elif key in VERBATIM_KEYS:
            prepared.append(f"++{key}={quoted(value)}")
        elif key in options and not value.startswith("{"):
            _check_choice(key, value, list(options[key]))
            prepared.append(argument)
        else:
            prepared.append(f"++{key}={value}")
    return prepared


def quoted(text: str) -> str:
    """`text` as a Hydra value that arrives unchanged, whatever brackets, quotes, `${` or newlines it holds.

    OmegaConf takes `${` for a reference unless an odd number of backslashes precedes it; Hydra's quoted
    string ends at a quote unless one does. Backslashes anywhere else stand for themselves.
    """
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    text = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), text)
    return f"'{text}'"


def register() -> None:
    """Put defaults, recipes and options into Hydra's ConfigStore."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    recipes, options = recipe_files(), option_files()
    for name, file in recipes.items():
        store.store(group="recipe", name=name, node=read_yaml(file), package="_global_")
    for section, files in options.items():
        for name, file in files.items():
            store.store(group=section, name=name, node=read_yaml(file), package=section)
    listed = ", ".join(f"{section}={'|'.join(files)}" for section, files in options.items())
    store.store(
        name="slm",
        node={
            **Recipe().model_dump(mode="json"),
            "defaults": [
                "_self_",
                *({section: None} for section in options),
                {"recipe": DEFAULT_RECIPE},
                {"override hydra/job_logging": "none"},
                {"override hydra/hydra_logging": "none"},
            ],
            "hydra": {
                "output_subdir": None,
                "run": {"dir": "."},
                "sweep": {"dir": "runs", "subdir": "."},
                "help": {"app_name": "slm", "template": HELP % (", ".join(recipes), listed)},
            },
        },
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """A recipe or option file as a dictionary; `UserError` with line and column where it is not YAML."""
    from omegaconf import OmegaConf

    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}; correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold keys and values, found {type(content).__name__}; see recipes/README.md")
    return {str(key): value for key, value in content.items()}


def explain(arguments: Sequence[str]) -> str:
    """What a dotted key means, its value in the recipe, and which layer it comes from."""
    keys = [word for word in arguments if "=" not in word]
    overrides = [word for word in arguments if "=" in word]
    if len(keys) != 1:
        raise ProblemsError(["usage: slm explain recipe=NAME [KEY=VALUE ...] KEY, such as train.tokens"])
    key = keys[0]
    if key not in set(known_keys()):
        near = difflib.get_close_matches(key, list(known_keys()), 3, 0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ProblemsError([f"{key}: no such key{hint}"])
    recipe = load_recipe(*overrides)
    value: Any = recipe
    default: Any = Recipe()
    text = ""
    for part in key.split("."):
        text = (type(value).model_fields[part].description or "") if isinstance(value, Config) else ""
        value, default = getattr(value, part, None), getattr(default, part, None)
    lines = [f"{key} = {_shown(value)}", f"  from {_provenance(key, overrides)}"]
    if _shown(default) != _shown(value):
        lines.append(f"  default {_shown(default)}")
    return "\n".join([*lines, *([f"  {text}"] if text else [])])


def _provenance(key: str, overrides: Sequence[str]) -> str:
    typed = {word.partition("=")[0].lstrip("+"): word for word in overrides}
    for prefix in (key, *_parents(key)):
        if prefix in typed and not (prefix in option_files() and prefix == key.split(".")[0]):
            return f"the command line ({typed[prefix]})"
    name = typed.get("recipe", f"recipe={DEFAULT_RECIPE}").partition("=")[2]
    recipe_file = recipe_files()[name]
    content = read_yaml(recipe_file)
    if _holds(content, key.split(".")):
        return str(recipe_file)
    section = key.split(".")[0]
    chosen = typed[section].partition("=")[2] if section in typed else _chosen_option(content, section)
    if chosen:
        file = option_files()[section][chosen]
        if _holds(read_yaml(file), key.split(".")[1:]):
            return str(file)
    return f"the default in src/slm/{section}/config.py" if "." in key else "the default in src/slm/recipe.py"


def _chosen_option(recipe: Mapping[str, Any], section: str) -> str:
    for entry in recipe.get("defaults", []):
        if isinstance(entry, dict) and f"override /{section}" in entry:
            return str(entry[f"override /{section}"])
    return ""


def _holds(content: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _shown(value: Any) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n...\n").strip()


def _check_choice(key: str, value: str, known: list[str]) -> None:
    for name in value.split(","):
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ProblemsError([f"{key}={name}: no such {key}; {hint}known are {', '.join(known)}"])


def _plain(composed: Any) -> dict[str, Any]:
    return {str(key): value for key, value in composed.items() if key not in ("hydra", "recipe")}


def _numbered(values: dict[str, Any]) -> dict[str, Any]:
    """In a sweep, each job gets a run of its own, `NAME-0`, `NAME-1`, unless the sweep names runs itself."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    settings = HydraConfig.get()
    typed = [word.lstrip("+").partition("=")[0] for word in settings.overrides.task]
    if settings.mode == RunMode.MULTIRUN and "run" not in typed:
        values["run"] = f"{values['run']}-{settings.job.num}"
    return values


def _terminated(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _leave(status: int, message: str) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)
