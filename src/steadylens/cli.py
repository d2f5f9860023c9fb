"""The command line: parse, call, print. What is done is done elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from steadylens import __version__, interruption
from steadylens.errors import ConfigError, DataError, ResourceError, SteadylensError

STARTED = time.perf_counter()  # the heavy imports, which come later, count towards a budget

app = typer.Typer(
    name="steadylens",
    help="Turn a folder of labelled images into a classifier that you can trust and deploy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take the defaults in square brackets for markup and drop them
    add_completion=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result and errors only.")]
Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders, or of train/, validation/ and test/; a CSV, TSV or Parquet manifest with path "
        "and label; or a .tar or .zip of these.",
    ),
]
Model = Annotated[Path, typer.Argument(metavar="RUN|ARTIFACT", help="The folder of a run, or the model/ in it.")]
Fixes = Annotated[
    Path | None, typer.Option("--fixes", help="A fixes.csv that an audit wrote and you edited.", show_default=False)
]


def _option(help_text: str, *names: str) -> Any:  # noqa: ANN401 - typer's own type
    return typer.Option(*names, help=help_text, show_default=False)


@app.command()
def demo(
    out: Annotated[Path | None, _option("Folder for the demo's images and runs.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See rare classes come back: handwritten digits, made long-tailed, by a plain and by a balanced recipe."""
    from steadylens import demo as demonstration
    from steadylens.console import Console

    result = demonstration.run(out, Console(quiet=quiet))
    print_out(json.dumps(result.as_dict()) if as_json else result.text())


@app.command()
def audit(
    data: Data,
    fixes: Fixes = None,
    out: Annotated[Path | None, _option("Folder for the page and the files. [a new one, named after DATA]")] = None,
    image_size: Annotated[str | None, _option("Side at which images are looked at, in pixels, or auto.")] = None,
    labels: Annotated[bool, _option("Look for wrong labels too, with networks trained for it.", "--labels")] = False,
    budget: Annotated[str | None, _option("Wall time for everything, where labels are checked. [6m]")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for what is wrong with the images: a list, a page with pictures, and a table to decide in."""
    from steadylens.classifier import audit as audit_images
    from steadylens.preparation import Stopwatch
    from steadylens.report.summary import audit_summary

    asked = {name: value for name, value in (("image_size", image_size), ("budget", budget)) if value is not None}
    watch = Stopwatch(STARTED)
    found = audit_images(data, fixes=fixes, out=out, labels=labels, quiet=quiet, stopwatch=watch, **asked)
    print_out(json.dumps(found.report) if as_json else audit_summary(found.report, found.findings))


@app.command()
def train(
    data: Data,
    test: Annotated[Path | None, _option("Other DATA, of any form, to test on.")] = None,
    fixes: Fixes = None,
    splits: Annotated[
        Path | None, _option("An earlier run, or its index.parquet: its images stay in the splits that they had there.")
    ] = None,
    out: Annotated[Path | None, _option("Folder of the run. [a new one, named after DATA]")] = None,
    budget: Annotated[str | None, _option("Wall time for everything, such as 90s, 10m, 2h. [10m]")] = None,
    network: Annotated[
        str | None, _option("auto, keras-blog, cnn-s, cnn-m, cnn-l, cnn-xl, or timm:NAME for a pretrained backbone.")
    ] = None,
    weights: Annotated[str | None, _option("A .safetensors file with the weights of a pretrained backbone.")] = None,
    sidecar: Annotated[
        str | None, _option("The JSON file that says what --weights mean. [the one beside them]")
    ] = None,
    depth: Annotated[
        str | None, _option("Convolutions: all of keras-blog's, or those after the first in each stage.")
    ] = None,
    width: Annotated[str | None, _option("Factor for the neurons of every hidden layer. [1]")] = None,
    image_size: Annotated[str | None, _option("Side to which images are resized, in pixels, or auto.")] = None,
    image_fit: Annotated[
        str | None, _option("How images become square: squash, pad or auto.", "--fit", "--image-fit")
    ] = None,
    imbalance: Annotated[
        str | None,
        _option("auto, none, class-weights, effective-number, oversample, logit-adjust, focal or ldam-drw."),
    ] = None,
    minority_augment: Annotated[
        str | None, _option("auto, off, or 0 to 1: more and stronger copies of rare classes.")
    ] = None,
    augment: Annotated[str | None, _option("auto, off, light, medium or strong.")] = None,
    l1: Annotated[str | None, _option("L1 penalty. [0]")] = None,
    l2: Annotated[str | None, _option("L2 penalty (decoupled weight decay), or auto.")] = None,
    dropout: Annotated[str | None, _option("Dropout before the last layer, 0 to 0.95, or auto.")] = None,
    label_smoothing: Annotated[str | None, _option("0 to 0.9, or auto.")] = None,
    mixup: Annotated[str | None, _option("Share of batches mixed by mixup or CutMix, 0 to 1, or auto.")] = None,
    early_stopping: Annotated[str | None, _option("Epochs without progress after which to stop, off or auto.")] = None,
    epochs: Annotated[str | None, _option("Passes over the training images. [as many as the budget allows]")] = None,
    refit: Annotated[
        bool, _option("Train the recipe again on train and validation together, and keep that network.", "--refit")
    ] = False,
    selection: Annotated[
        str | None, _option("auto tries other recipes too where there is time for it, off does not. [auto]")
    ] = None,
    seed: Annotated[str | None, _option("Of everything random. [0]")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda.")] = None,
    resume: Annotated[
        bool,
        _option("Go on with an unfinished run of the same images and options, or say that there is none.", "--resume"),
    ] = False,
    log: Annotated[str | None, _option("tensorboard, mlflow, or both with a comma: they get the same figures.")] = None,
    config: Annotated[Path | None, _option("A TOML file of options.")] = None,
    settings: Annotated[
        list[str] | None,
        _option(
            "Any option by name: batch_size, learning_rate, averaging, precision, flip, mirror, members, stopping, ...",
            "--set",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on labelled images, and report on it."""
    asked = {
        "budget": budget, "network": network, "weights": weights, "sidecar": sidecar, "depth": depth, "width": width,
        "image_size": image_size, "image_fit": image_fit,
        "imbalance": imbalance, "minority_augment": minority_augment, "augment": augment, "l1": l1, "l2": l2,
        "dropout": dropout, "label_smoothing": label_smoothing, "mixup": mixup, "early_stopping": early_stopping,
        "epochs": epochs, "selection": selection, "refit": refit or None, "seed": seed, "device": device, "log": log,
    }  # fmt: skip
    from steadylens.config import parse, read_toml

    values = {**(read_toml(config) if config else {}), **_settings(settings or [])}
    resolved = parse({**values, **{name: value for name, value in asked.items() if value is not None}})

    from steadylens import pipeline
    from steadylens.console import Console
    from steadylens.continuation import folder_for, source_of
    from steadylens.data.fixes import with_fixes
    from steadylens.data.sources import read_index
    from steadylens.preparation import Stopwatch
    from steadylens.report.summary import summary

    source = source_of(data, test=test, fixes=fixes, splits=splits)
    run = pipeline.train(
        with_fixes(lambda advance: read_index(data, test=test, advance=advance), fixes),
        out or folder_for(Path(f"{data.resolve().name}-run"), resolved, source, resume=resume),
        resolved,
        command=shlex.join(["steadylens", *sys.argv[1:]]),
        source=source,
        splits_of=splits,
        resume=resume,
        console=Console(quiet=quiet),
        stopwatch=Stopwatch(STARTED),
    )
    print_out(json.dumps(run.report) if as_json else summary(run.folder, run.report))


@app.command()
def compare(
    data: Data,
    budget: Annotated[str | None, _option("Wall time for everything, shared out equally. [30m]")] = None,
    strategies: Annotated[str | None, _option("Some of them, by name and with commas between. [all]")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each strategy.")] = 1,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trainings at once, which share the processors.")] = 1,
    share: Annotated[bool, typer.Option("--share", hidden=True)] = False,
    network: Annotated[
        str | None, _option("What they share: keras-blog, cnn-s, cnn-m, cnn-l or cnn-xl. [keras-blog]")
    ] = None,
    epochs: Annotated[str | None, _option("Passes over the training images, in place of a budget.")] = None,
    test: Annotated[Path | None, _option("Other images to test on. [a part of DATA]")] = None,
    fixes: Fixes = None,
    image_size: Annotated[str | None, _option("Side to which images are resized, in pixels, or auto.")] = None,
    seed: Annotated[str | None, _option("Of everything random; further seeds follow it. [0]")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda.")] = None,
    out: Annotated[Path | None, _option("Folder; an interrupted comparison goes on. [DATA-compare]")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try the strategies of the tutorial beside each other on your images: a table, and a page to learn from."""
    from steadylens.config import parse

    asked = {
        "budget": budget, "network": network, "epochs": epochs, "image_size": image_size, "seed": seed,
        "device": device,
    }  # fmt: skip
    shared = parse({name: value for name, value in asked.items() if value is not None})

    from steadylens import comparison
    from steadylens.console import Console
    from steadylens.data.fixes import with_fixes
    from steadylens.data.sources import read_index
    from steadylens.preparation import Stopwatch
    from steadylens.report.comparison_table import comparison_summary
    from steadylens.shares import received

    found = comparison.compare(
        with_fixes(lambda advance: read_index(data, test=test, advance=advance), fixes),
        out or Path(f"{data.resolve().name}-compare"),
        shared,
        strategies=None if strategies is None else [name.strip() for name in strategies.split(",") if name.strip()],
        seeds=seeds,
        jobs=jobs,
        share=received() if share else None,
        command=shlex.join(["steadylens", *sys.argv[1:]]),
        again=[sys.executable, "-P", "-m", "steadylens", "compare", "--share", *sys.argv[2:]],
        console=Console(quiet=quiet or share),
        stopwatch=Stopwatch(STARTED),
    )
    if not share:
        print_out(json.dumps(found.report) if as_json else comparison_summary(found.folder, found.report))


@app.command()
def evaluate(model: Model, data: Data, as_json: Json = False, quiet: Quiet = False) -> None:
    """Measure a trained model on other labelled images."""
    from steadylens.console import Console
    from steadylens.measurement import evaluate_on
    from steadylens.report.summary import scores_table

    result = evaluate_on(model, data, Console(quiet=quiet))
    print_out(json.dumps(result) if as_json else scores_table(result))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """(Re)write a run's report.html from what is in the run."""
    from steadylens.console import Console
    from steadylens.report.page import write_page

    with Console(quiet=quiet).stage("Writing the report"):
        page = write_page(run)
    print_out(json.dumps({"report": str(page)}) if as_json else str(page))


@app.command()
def predict(
    model: Model,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, patterns; - reads one image from stdin.")
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what images show: one line an image, with the class and its probability."""
    from steadylens.console import Console
    from steadylens.data.unlabelled import find_images
    from steadylens.deployment.predictor import Prediction, load
    from steadylens.report.summary import answer_line, answer_row

    predictor, console, refused = load(model), Console(quiet=quiet), 0
    if images == ["-"]:
        answers = (("-", answer) for answer in predictor.predict_bytes([sys.stdin.buffer.read()]))
    else:
        answers = ((str(path), answer) for path, answer in predictor.predict_files(find_images(images, console.say)))
    for path, answer in answers:
        refused += not isinstance(answer, Prediction)
        print_out(json.dumps(answer_row(path, answer)) if as_json else answer_line(path, answer))
    if refused:
        console.say(f"{refused} could not be read.")
        raise typer.Exit(DataError.exit_code)


@app.command()
def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER...]", help="Folders of runs. [the current one]", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List runs with their state, score and time, the newest first."""
    from steadylens.console import Console
    from steadylens.report.runs import find_runs, runs_table

    found = find_runs(folders or [Path()], Console(quiet=quiet).say)
    print_out(json.dumps([run.as_dict() for run in found]) if as_json else runs_table(found))


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Follow a run from another terminal until it has ended; leaves with 0 where it is finished, else with 130."""
    from steadylens.console import Console
    from steadylens.report.metrics_log import epoch_line
    from steadylens.report.runs import Overview, ending, follow

    console = Console(quiet=quiet)
    try:
        for event in follow(run):
            if isinstance(event, Overview):
                print_out(json.dumps(event.as_dict()) if as_json else ending(event))
                raise typer.Exit(event.exit_code)
            if isinstance(event, str):
                console.say(event)
            else:
                print_out(json.dumps(event) if as_json else epoch_line(event))
    except interruption.Interrupted as interrupted:
        console.say("No longer watched. The run is not touched by that.")
        raise typer.Exit(interrupted.exit_code) from None


@app.command()
def doctor(as_json: Json = False, quiet: Quiet = False) -> None:
    """Tell what this machine has, what will be used, and what is missing."""
    from steadylens import diagnostics
    from steadylens.console import Console

    with Console(quiet=quiet).stage("Looking"):
        found = diagnostics.examine()
    print_out(json.dumps(found) if as_json else diagnostics.text(found))


def main() -> NoReturn:
    """Run the command line; every error leaves with its own exit code."""
    interruption.heed_signals()
    try:
        app()
    except SteadylensError as error:
        _leave(str(error), error.exit_code)
    except interruption.Interrupted as interrupted:
        go_on = f" Go on with: {interrupted.go_on}" if interrupted.go_on else ""
        _say_last(f"interrupted.{go_on}")
        os._exit(interrupted.exit_code)  # the interpreter would wait for threads that read from a disk that hangs
    except Exception as error:  # the last resort: whatever else gets here is ours
        from steadylens.training.memory import out_of_memory

        if out_of_memory(error):
            advice = "take a smaller batch_size, image size, width or network, or a machine with more"
            _leave(f"there is too little memory ({error}): {advice}.", ResourceError.exit_code)
        traceback.print_exc()
        _leave(
            f"version {__version__} has a bug. Please report it with the lines above, the command, "
            "and what `steadylens doctor` prints.",
            SteadylensError.exit_code,
        )
    sys.exit(0)


def _leave(message: str, exit_code: int) -> NoReturn:
    _say_last(message)
    sys.exit(exit_code)


def _say_last(message: str) -> None:
    interruption.ignore_signals()
    with suppress(OSError):  # nobody may read it any more
        typer.echo(f"steadylens: {message}", err=True)
        sys.stdout.flush()
        sys.stderr.flush()


def _settings(pairs: list[str]) -> dict[str, str]:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ConfigError(f"--set takes name=value. Got {', '.join(map(repr, wrong))} instead.")
    return {name.strip(): value.strip() for name, value in (pair.split("=", 1) for pair in pairs)}


def print_out(text: str) -> None:
    """Write a result to stdout."""
    typer.echo(text)
