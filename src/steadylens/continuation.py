"""Beginning a run and going on with one: the lock, what was asked for, and that it is still the same."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from steadylens import __version__, files
from steadylens.config import Config
from steadylens.console import Console
from steadylens.data.folders import is_unicode, printable
from steadylens.data.sources import ImageIndex
from steadylens.data.split import Splits
from steadylens.errors import ConfigError, DataError, ResourceError, SteadylensError
from steadylens.interruption import Interrupted
from steadylens.preparation import Stopwatch
from steadylens.report import run_folder
from steadylens.report.contents import cpu_name
from steadylens.report.runs import command_to_go_on, is_unfinished
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.selection import Selection, selection_from

_NAMED = 3  # paths in a sentence about what differs


@dataclass(frozen=True)
class Source:
    """What tells the images of one run from those of others before they are read.

    Attributes:
        data: where they come from; None where they lie in memory.
        others: the other files that they depend on, by the name of the option.
    """

    data: str | None = None
    others: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Continuation:
    """What a run goes on from.

    Attributes:
        checkpoints: of the run.
        resumed: whether an earlier process began it.
        command: that began it.
        elsewhere: what is not as it was then, of all that can change the last bits of the weights, in words.
        selection: what was chosen then; None where nothing was yet.
    """

    checkpoints: Checkpoints
    resumed: bool
    command: str
    elsewhere: tuple[str, ...]
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
        self.checkpoints.keep("selection", Checkpoint(asdict(selection)))


def source_of(data: object, **others: object) -> Source:
    """What tells images from others: the path of `data`, and those of other files, by the name of their option.

    Where anything of it lies in memory, nothing does.
    """
    named = {name: value for name, value in others.items() if value is not None}
    if not isinstance(data, str | Path) or not all(isinstance(value, str | Path) for value in named.values()):
        return Source()
    return Source(str(Path(data).resolve()), {name: str(Path(str(value)).resolve()) for name, value in named.items()})


def folder_for(wanted: Path, config: Config, source: Source, *, resume: bool) -> Path:
    """The folder of a run that the same command began, or the first of `wanted`, `wanted`-2, ... that is free.

    Args:
        wanted: the name that is tried first.
        config: what was asked for.
        source: where the images come from; of images in memory no earlier run is looked for.
        resume: whether there has to be a run that was begun. A finished one counts, and so does one that was begun
            with other options, since it is then told what differs.

    Raises:
        ConfigError: there has to be one, and is none.
    """
    free = run_folder.free_name(wanted)
    names, number = list[Path](), 1
    while (name := wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")) != free:
        names.append(name)
        number += 1
    ours = [name for name in names if source.data is not None and _is_of(name, source)]
    same = [name for name in ours if not _differences(_begun(name)["config"], config)]
    unfinished = [name for name in same if is_unfinished(name) and not files.is_locked(name)]
    if unfinished:
        return unfinished[0]
    if not resume:
        return free
    if not ours:
        raise ConfigError(
            f"There is no run of {source.data} named {wanted} to resume. Name its folder with --out, or leave --resume "
            "out to begin one."
        )
    return (same or ours)[-1]


@contextmanager
def taken_up(
    run: Path, config: Config, *, command: str, source: Source, resume: bool, watch: Stopwatch, console: Console
) -> Iterator[Continuation]:
    """Begin a run, or go on with an unfinished one; within the `with` block no other process can.

    Args:
        run: its folder.
        config: what is asked for; of an unfinished run the same as when it was begun.
        command: that does it.
        source: where the images come from.
        resume: whether there has to be an unfinished run.
        watch: to which the seconds that an unfinished run has taken are added.
        console: told that a run is gone on with.

    Raises:
        ConfigError: the folder holds something else, something else was asked for, or a name is not valid Unicode.
        ResourceError: another process works in the folder, or it cannot be written.
    """
    made = not run.exists()
    _require_unicode(run, command, source)
    _require_ours(run, resume=resume)
    files.make_folder(run)
    with files.locked(run):
        unfinished = _require_ours(run, resume=resume)  # again: another process may have ended meanwhile
        if unfinished:
            require_same(run, config)
            files.remove_leftovers(run)
        else:
            files.make_folder(run / run_folder.CHECKPOINTS)
            _write_begun(run, config, command, source)
        begun = _begun(run)
        checkpoints = Checkpoints(run / run_folder.CHECKPOINTS, watch.elapsed, console.say)
        watch.already(checkpoints.seconds_spent())
        elsewhere = _elsewhere(begun.get("machine")) if unfinished else ()
        if unfinished:
            console.say(f"Going on with {run}, which has taken {watch.earlier:.0f} s so far")
        for text in elsewhere:
            console.say(f"  {text}: the last bits of the weights may differ from those of an uninterrupted run")
        try:
            selection = _selected(run, checkpoints)
            yield Continuation(checkpoints, unfinished, str(begun["command"]), elsewhere, selection)
            _clear(checkpoints, console)
        except Interrupted as interruption:
            interruption.go_on = command_to_go_on(command, run)
            raise
        except SteadylensError:
            if not unfinished and not (run / run_folder.INDEX).exists():
                _undo(run, made=made)  # nothing was begun that could be gone on with
            raise
        finally:
            with suppress(SteadylensError):  # whatever else there was to say has been said
                checkpoints.settle()


def require_same(run: Path, config: Config) -> None:
    """Raise a ConfigError where something else is asked for than when the run was begun."""
    begun = _begun(run)
    differences = _differences(begun["config"], config)
    if begun.get("steadylens_version") != __version__:
        differences.append(f"steadylens was {begun.get('steadylens_version')} and is now {__version__}")
    if differences:
        raise ConfigError(
            f"{run} was begun otherwise: {'; '.join(differences)}. Go on with it as it was begun "
            f"({begun['command']}), or begin another run with --out."
        )


def require_same_images(run: Path, index: ImageIndex, splits: Splits) -> None:
    """Raise a DataError where the images are no longer those that the run was begun with."""
    path = run / run_folder.INDEX
    try:
        before = _rows_of(pq.read_table(pa.BufferReader(path.read_bytes())))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({error}), so nobody can tell whether the images are the same. Begin another run "
            "with --out."
        ) from error
    differences = _differences_of_images(before, _rows_of(run_folder.index_table(index, splits)))
    if differences:
        raise DataError(
            f"The images are not those that {run} was begun with: {'; '.join(differences)}. Bring them back as they "
            "were to go on with it, or begin another run with --out."
        )


def _require_ours(run: Path, *, resume: bool) -> bool:
    """Whether there is an unfinished run in the folder; a ConfigError where it holds something else."""
    if is_unfinished(run):
        return True
    run_folder.require_free(run)
    if resume:
        raise ConfigError(f"There is no unfinished run in {run} to resume. Leave --resume out to begin one.")
    return False


def _undo(run: Path, *, made: bool) -> None:
    """Take away what a run that could not begin has made, and nothing else."""
    with suppress(ResourceError):
        files.remove(run / run_folder.CHECKPOINTS)
        files.remove(run / files.LOCK)
    if made:
        files.remove_if_empty(run)


def _clear(checkpoints: Checkpoints, console: Console) -> None:
    """Remove the checkpoints of a finished run; it is none the worse where they cannot be removed."""
    try:
        checkpoints.clear()
    except ResourceError as error:
        console.say(f"  The run is finished, but its checkpoints are still there: {error}")


# An image as index.parquet has it: its path, label, split and content, or why it was refused.
_Row = tuple[str, str, str, str, str | None]


def _rows_of(table: pa.Table) -> list[_Row]:
    names = ("path", "label", "split", "sha256", "refusal")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def _differences_of_images(before: Sequence[_Row], now: Sequence[_Row]) -> list[str]:
    was, here = {row[0]: row for row in before}, {row[0]: row for row in now}
    both = [path for path in was if path in here]
    kinds = {
        "gone": [path for path in was if path not in here],
        "new": [path for path in here if path not in was],
        "of another class": [path for path in both if was[path][1] != here[path][1]],
        "of other content": [path for path in both if was[path][3] != here[path][3]],
        "refused for another reason": [path for path in both if was[path][4] != here[path][4]],
        "in another split": [path for path in both if was[path][2] != here[path][2]],
    }
    found = [f"{len(paths):,} {kind} ({_shown(paths)})" for kind, paths in kinds.items() if paths]
    if not found and list(before) != list(now):
        found.append("they come in another order, or some come more often")
    return found


def _shown(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


def _require_unicode(run: Path, command: str, source: Source) -> None:
    """Raise a ConfigError for names of files that the run's own files, which are UTF-8, could not hold."""
    words = [str(run.absolute()), source.data or "", *source.others.values(), command]
    wrong = [printable(word) for word in words if not is_unicode(word)]
    if wrong:
        raise ConfigError(f"{wrong[0]} is not valid Unicode, and no report could hold it. Rename what is called so.")


def _write_begun(run: Path, config: Config, command: str, source: Source) -> None:
    begun = {
        "steadylens_version": __version__,
        "command": command,
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": source.data,
        "others": source.others,
        "budget": config.budget,
        "config": _as_json(config),
        "machine": _machine(),
    }
    files.write_json(run / files.BEGUN, begun)


def _as_json(config: Config) -> dict[str, Any]:
    """What determines the run, as JSON values: neither who was told of it, nor which values were the defaults."""
    return {f.name: getattr(config, f.name) for f in fields(Config) if f.name not in ("given", "log")}


def _machine() -> dict[str, Any]:
    """What rounds in another way where it is another."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": cpu_name()}


def _elsewhere(before: object) -> tuple[str, ...]:
    was = before if isinstance(before, dict) else {}
    return tuple(
        f"{name} was {was.get(name)} and is now {value}" for name, value in _machine().items() if was.get(name) != value
    )


def _begun(run: Path) -> dict[str, Any]:
    path = run / files.BEGUN
    try:
        begun = dict(json.loads(path.read_text("utf-8")))
        return {**begun, "config": dict(begun["config"]), "command": str(begun["command"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}), so nobody can tell what {run} was to become. Remove the folder, or choose "
            "another with --out."
        ) from error


def _is_of(run: Path, source: Source) -> bool:
    """Whether a run was begun with images from the same place; not where nobody can tell."""
    try:
        begun = _begun(run)
    except ConfigError:
        return False
    return begun.get("data") == source.data and begun.get("others") == source.others


def _differences(asked: Mapping[str, Any], config: Config) -> list[str]:
    return [
        f"{name} was {asked.get(name)!r} and is now {value!r}"
        for name, value in _as_json(config).items()
        if asked.get(name) != value
    ]


def _selected(run: Path, checkpoints: Checkpoints) -> Selection | None:
    kept = checkpoints.outcome("selection")
    if kept is None:
        return None
    selection = selection_from(kept.state)
    if selection.recipe.device == "cuda" and not torch.cuda.is_available():
        raise ResourceError(
            f"{run} was begun on a CUDA device, and torch finds none here. Go on with it where there is one, or begin "
            "another run with --out."
        )
    return selection
