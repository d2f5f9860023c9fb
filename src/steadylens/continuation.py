"""Beginning a run and going on with one: the lock, what was asked for, and that it is still the same."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steadylens import __version__, files
from steadylens.config import Config, Recipe
from steadylens.console import Console
from steadylens.data.sources import ImageIndex
from steadylens.data.split import Splits
from steadylens.errors import ConfigError, DataError, SteadylensError
from steadylens.interruption import Interrupted
from steadylens.preparation import Stopwatch
from steadylens.report import run_folder
from steadylens.training.checkpoint import BEGUN, Checkpoint, Checkpoints
from steadylens.training.selection import Selection

_NAMED = 3  # paths in a sentence about what differs


@dataclass(frozen=True)
class Continuation:
    """What a run goes on from.

    Attributes:
        checkpoints: of the run.
        resumed: whether an earlier process began it.
        selection: what was chosen then; None where nothing was yet.
    """

    checkpoints: Checkpoints
    resumed: bool
    selection: Selection | None

    def pinned(self, config: Config) -> Config:
        """The config with what was chosen for the images' sake, so that they are prepared as they were."""
        if self.selection is None:
            return config
        recipe = self.selection.recipe
        given = config.given - {"transfer"}  # which goes with pretrained weights alone, and has been heeded
        return replace(
            config, given=given, network=recipe.network, image_size=recipe.image_size, image_fit=recipe.image_fit
        )

    def keep_selection(self, selection: Selection) -> None:
        """Keep what was chosen."""
        recipe = {**asdict(selection.recipe), "classes": list(selection.recipe.classes)}
        state = {"recipe": recipe, "why": selection.why, "seconds_per_image": selection.seconds_per_image}
        self.checkpoints.keep("selection", Checkpoint(state))


def folder_for(wanted: Path, config: Config, data: str, *, resume: bool) -> Path:
    """The folder of an unfinished run of the same command, or the first of `wanted`, `wanted`-2, ... that is free.

    Args:
        wanted: the name that is tried first.
        config: what was asked for.
        data: where the images come from.
        resume: whether there has to be an unfinished run.

    Raises:
        ConfigError: there has to be one, and is none.
    """
    free = run_folder.free_name(wanted)
    name, number = wanted, 1
    while name != free:
        if run_folder.is_unfinished(name) and not files.is_locked(name):
            begun = _begun(name)
            if begun["data"] == data and (resume or not _differences(begun["config"], config)):
                return name
        number += 1
        name = wanted.with_name(f"{wanted.name}-{number}")
    if resume:
        raise ConfigError(
            f"There is no unfinished run of {data} named {wanted} to resume. Name its folder with --out, or leave "
            "--resume out to begin one."
        )
    return free


@contextmanager
def taken_up(
    run: Path, config: Config, *, command: str, data: str, resume: bool, watch: Stopwatch, console: Console
) -> Iterator[Continuation]:
    """Begin a run, or go on with an unfinished one; within the `with` block no other process can.

    Args:
        run: its folder.
        config: what is asked for; of an unfinished run the same as when it was begun.
        command: that does it.
        data: where the images come from.
        resume: whether there has to be an unfinished run.
        watch: to which the seconds that an unfinished run has taken are added.
        console: told that a run is gone on with.

    Raises:
        ConfigError: the folder holds something else, or something else was asked for.
        ResourceError: another process works in the folder, or it cannot be written.
    """
    unfinished = run_folder.is_unfinished(run)
    if not unfinished:
        run_folder.require_free(run)
        if resume:
            raise ConfigError(f"There is no unfinished run in {run} to resume. Leave --resume out to begin one.")
        files.make_folder(run)
    with files.locked(run):
        folder = run / run_folder.CHECKPOINTS
        if unfinished:
            _require_same(run, config)
            files.remove_leftovers(run)
        else:
            files.make_folder(folder)
            _write_begun(folder / BEGUN, config, command, data)
        checkpoints = Checkpoints(folder, watch.elapsed, console.say)
        watch.already(checkpoints.seconds_spent())
        if unfinished:
            console.say(f"Going on with {run}, which has taken {watch.earlier:.0f} s so far")
        try:
            yield Continuation(checkpoints, unfinished, _selected(checkpoints))
            checkpoints.clear()
        except Interrupted as interruption:
            interruption.go_on = to_go_on(command, run)
            raise
        except SteadylensError:
            if not unfinished and not (run / run_folder.INDEX).exists():
                files.remove(run)  # nothing was begun that could be gone on with
            raise


def to_go_on(command: str, run: Path) -> str:
    """The command that goes on with a run that `command` began."""
    words = shlex.split(command) if command.startswith("steadylens ") else ["steadylens", "train", "DATA"]
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words += ["--out", str(run)]
    return shlex.join(words if "--resume" in words else [*words, "--resume"])


def require_same_images(run: Path, index: ImageIndex, splits: Splits) -> None:
    """Raise a DataError where the images are no longer those that the run was begun with."""
    try:
        before = pq.read_table(io_of(run / run_folder.INDEX))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{run / run_folder.INDEX} cannot be read ({error}). Begin another run.") from error
    differences = _differences_of_images(_rows_of(before), _rows_of(run_folder.index_table(index, splits)))
    if differences:
        raise DataError(
            f"The images are not those that {run} was begun with: {'; '.join(differences)}. Bring them back as they "
            "were to go on with it, or begin another run with --out."
        )


def io_of(path: Path) -> pa.BufferReader:
    """A file's content, read whole: nothing stays open."""
    return pa.BufferReader(path.read_bytes())


def _rows_of(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """What matters of each image: its label, split and content, or why it was refused."""
    names = ("label", "split", "sha256", "refusal")
    columns = zip(*(table[name].to_pylist() for name in names), strict=True)
    return dict(zip(table["path"].to_pylist(), columns, strict=True))


def _differences_of_images(before: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]) -> list[str]:
    both = [path for path in before if path in now and before[path] != now[path]]
    kinds = {
        "gone": [path for path in before if path not in now],
        "new": [path for path in now if path not in before],
        "of another class": [path for path in both if before[path][0] != now[path][0]],
        "of other content": [path for path in both if before[path][2] != now[path][2]],
        "refused for another reason": [path for path in both if before[path][3] != now[path][3]],
        "in another split": [path for path in both if before[path][1] != now[path][1]],
    }
    return [f"{len(paths):,} {kind} ({_named(paths)})" for kind, paths in kinds.items() if paths]


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


def _write_begun(path: Path, config: Config, command: str, data: str) -> None:
    begun = {
        "steadylens_version": __version__,
        "command": command,
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": data,
        "budget": config.budget,
        "config": _as_json(config),
    }
    files.write_json(path, begun)


def _as_json(config: Config) -> dict[str, Any]:
    """What determines the run, as JSON values: neither who was told of it, nor which values were the defaults."""
    return {field.name: getattr(config, field.name) for field in fields(Config) if field.name not in ("given", "log")}


def _begun(run: Path) -> dict[str, Any]:
    path = run / run_folder.CHECKPOINTS / BEGUN
    try:
        begun = dict(json.loads(path.read_text("utf-8")))
        return {**begun, "config": dict(begun["config"]), "data": str(begun["data"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}), so nobody can tell what {run} was to become. Remove the folder, or choose "
            "another with --out."
        ) from error


def _differences(asked: Mapping[str, Any], config: Config) -> list[str]:
    return [
        f"{name} was {asked.get(name)!r} and is now {value!r}"
        for name, value in _as_json(config).items()
        if asked.get(name) != value
    ]


def _require_same(run: Path, config: Config) -> None:
    begun = _begun(run)
    differences = _differences(begun["config"], config)
    if begun.get("steadylens_version") != __version__:
        differences.append(f"steadylens was {begun.get('steadylens_version')} and is now {__version__}")
    if differences:
        raise ConfigError(
            f"{run} was begun otherwise: {'; '.join(differences)}. Go on with it as it was begun "
            f"({begun.get('command')}), or begin another run with --out."
        )


def _selected(checkpoints: Checkpoints) -> Selection | None:
    kept = checkpoints.outcome("selection")
    if kept is None:
        return None
    recipe = {**kept.state["recipe"], "classes": tuple(kept.state["recipe"]["classes"])}
    return Selection(Recipe(**recipe), kept.state["why"], kept.state["seconds_per_image"])
