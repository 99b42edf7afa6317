"""From a command line to a running stage: Hydra composes, pydantic checks, errors are sentences.

`recipes/NAME/config.yaml` becomes option NAME of Hydra's group `recipe`; `configs/SECTION/OPTION.yaml`
becomes option OPTION of group SECTION. Both are put into Hydra's ConfigStore at start, so that they are
found alike from a checkout, a wheel or a container. Hydra's own run folders and logging are off.

Every `key=value` is handed to Hydra as a forced override, so that a misspelt key reaches our schema and
is reported with all other problems instead of ending at Hydra's first complaint.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from slm.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, ProblemsError, Stopped, UserError, is_disk_full
from slm.recipe import STAGES, Recipe, build_recipe, is_section, known_keys

DEFAULT_RECIPE = "quickstart"
VERBATIM_KEYS = frozenset({"serve.prompt", "serve.model"})
"""Keys whose value on the command line is text as it stands, not Hydra's grammar; so no sweep over them either."""
HELP = """slm %s: KEY=VALUE ... changes settings; KEY is dotted, as in train.tokens=1e6

recipe=NAME     start from a recipe: %s
SECTION=OPTION  swap in a piece: %s
-m A=1,2 B=3,4  run every combination, each under a run name of its own
--cfg job       print the composed settings and stop
--help          this text

slm recipes lists what each recipe is; slm explain recipe=NAME KEY prints what a key means, its value and where that
came from.
"""
FLAGS = frozenset({"-h", "--help", "-c", "--cfg", "-m", "--multirun", "-i", "--info", "--hydra-help", "--resolve"})
"""The flags of Hydra that mean something here; its others would search for configurations elsewhere."""
_registered: list[tuple[Path, int, int]] = []
"""The files, their times and sizes, that Hydra's ConfigStore holds: reading all of them is half of composing one."""


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

    words = prepare_overrides(overrides)
    register()
    with _as_problems(), initialize(version_base="1.3", config_path=None):
        composed = compose("slm", overrides=words)
        values = _plain(OmegaConf.to_container(composed, resolve=True))
    return build_recipe(values)


def command(name: str, run: Callable[[Recipe], object], shortcuts: Mapping[str, str] | None = None) -> None:
    """Run one command as the process's main job: parse `sys.argv`, call `run(recipe)`, exit.

    `shortcuts` maps words of this command to keys, such as `prompt` to `serve.prompt`.
    """
    import hydra
    from omegaconf import DictConfig, OmegaConf

    def job(composed: DictConfig) -> None:
        def work() -> None:
            with _as_problems():
                values = _plain(OmegaConf.to_container(composed, resolve=True))
            run(build_recipe(_numbered(values)))

        guarded(work)

    def start() -> None:
        if {"-h", "--help"} & set(sys.argv[1:]):  # not by Hydra, which copies all recipes again for each of its groups
            listed = ", ".join(f"{section}={'|'.join(pieces)}" for section, pieces in option_files().items())
            sys.stdout.write(HELP % (name, ", ".join(recipe_files()), listed))
            return
        sys.argv = [f"slm {name}", *prepare_overrides(sys.argv[1:], shortcuts or {})]
        register()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own report and leaving
        job.__module__ = f"slm.{name}"  # names the job and gives Hydra a package to anchor its search path
        with _as_problems():
            hydra.main(version_base="1.3", config_path=None, config_name="slm")(job)()

    guarded(start)


def guarded(work: Callable[[], object]) -> None:
    """Run `work`; what a person can mend ends in a sentence and an exit status, never in a trace.

    SIGTERM and SIGUSR1, which schedulers send, end with status 85: the same command is worth starting again.
    At the interpreter's end its collections leave out what lives: they would go through all of torch, for 0.8 s.
    """
    atexit.unregister(gc.freeze)  # one of them, however often this is called
    atexit.register(gc.freeze)
    previous = {number: signal.signal(number, _stopped) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        work()
    except UserError as error:
        _leave(error.exit_status, "\n".join(f"error: {line}" for line in str(error).splitlines()))
    except Stopped as error:
        _leave(
            error.exit_status,
            f"stopped ({error}): everything already made is kept; the same command goes on from where it was",
        )
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
        for number, handler in previous.items():
            signal.signal(number, handler)


def prepare_overrides(arguments: Sequence[str], shortcuts: Mapping[str, str] | None = None) -> list[str]:
    """Command-line words as Hydra wants them; raises `ProblemsError` with all that it could not read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = {"from": "start", "to": "stop", **(shortcuts or {})}
    sweeping = not {"-m", "--multirun"}.isdisjoint(arguments)
    parser = OverridesParser.create()
    flags: list[str] = []  # kept in front: argparse takes no settings after a flag that follows settings
    prepared: list[str] = []
    problems: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.startswith("-") or before in ("-c", "--cfg", "-i", "--info"):
            if argument.startswith("-") and argument not in FLAGS:
                problems.append(f"{argument}: no such flag; known are {', '.join(sorted(FLAGS))}")
            flags.append(argument)
            continue
        if "=" not in argument and not argument.startswith("~"):
            problems.append(f"{argument}: settings are given as key=value, such as recipe=quickstart")
            continue
        try:
            word = _prepared(argument, words)
            override = parser.parse_override(word)
            if override.is_sweep_override() and not sweeping:
                value = argument.partition("=")[2]
                problems.append(f"{argument}: several values need -m, which runs each; a list is written [{value}]")
            prepared.append(word)
        except ProblemsError as error:
            problems += error.problems
        except HydraException as error:
            key, _, value = argument.partition("=")
            reason = str(error).splitlines()[0]
            problems.append(f"{argument}: not readable ({reason}); quote the value: {key}=\"'{value}'\"")
    if problems:
        raise ProblemsError(problems)
    return [*flags, *prepared]


def _prepared(argument: str, words: Mapping[str, str]) -> str:
    key, equals, value = argument.partition("=")
    typed, key, options = key, words.get(key, key), option_files()
    if not equals or key.startswith(("+", "~", "hydra.", "hydra/")):
        return argument
    if key == "recipe":
        _check_choice(typed, value, list(recipe_files()))
        return argument
    if key in ("start", "stop"):
        _check_choice(typed, value, list(STAGES), "stage")
    if key in VERBATIM_KEYS:
        return f"++{key}={quoted(value)}"
    if key in options and not value.startswith("{"):
        _check_choice(key, value, list(options[key]))
        return argument
    if is_section(key) and not value.startswith("{"):
        within = next(name for name in known_keys() if name.startswith(f"{key}."))
        raise ProblemsError([f"{argument}: {key} is a section; set the keys in it, such as {within}=..."])
    return f"++{key}={value}"


def quoted(text: str) -> str:
    """`text` as a Hydra value that arrives unchanged, whatever brackets, quotes, `${` or newlines it holds.

    OmegaConf takes `${` for a reference unless an odd number of backslashes precedes it; Hydra's quoted
    string ends at a quote unless one does. Backslashes anywhere else stand for themselves.
    """
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    text = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), text)
    return f"'{text}'"


def register() -> None:
    """Put defaults, recipes and options into Hydra's ConfigStore, anew where one of the files is another.

    A recipe that cannot be read is left out, so that it stands in nobody's way but its own.
    """
    from hydra.core.config_store import ConfigStore

    recipes, options = recipe_files(), option_files()
    files = [file for named in (recipes, *options.values()) for file in named.values()]
    now = [(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    if now == _registered:
        return
    store = ConfigStore.instance()
    for name, file in recipes.items():
        with contextlib.suppress(UserError):
            store.store(group="recipe", name=name, node=read_yaml(file), package="_global_")
    for section, pieces in options.items():
        for name, file in pieces.items():
            store.store(group=section, name=name, node=read_yaml(file), package=section)
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
            },
        },
    )

    _registered[:] = now


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


@contextlib.contextmanager
def _as_problems() -> Iterator[None]:
    """Turn what Hydra and OmegaConf object to into a `ProblemsError`."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines() if line.strip()]
        raise ProblemsError([f"the settings do not fit together: {'; '.join(dict.fromkeys(lines))}"]) from error


def _check_choice(key: str, value: str, known: list[str], what: str = "") -> None:
    for name in value.split(","):
        if key == "recipe" and name in known:
            read_yaml(recipe_files()[name])  # says what is wrong with it, where something is
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ProblemsError([f"{key}={name}: no such {what or key}; {hint}known are {', '.join(known)}"])


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


def _stopped(number: int, _frame: object) -> None:
    raise Stopped(signal.Signals(number).name)


def _leave(status: int, message: str) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)
