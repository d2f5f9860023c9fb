"""The house keeps its order: imports point one way, one module writes files, nothing loads code, all is short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import steadylens

SOURCE = Path(steadylens.__file__).parent
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))

# From the ground to the roof; a module may import what stands before it, and its own folder.
ORDER = [
    *("errors", "interruption", "files", "metrics", "config", "console"),
    *("data", "models", "training", "evaluation", "deployment", "report"),
    *("preparation", "inspection", "measurement", "from_scratch", "fitting", "shares", "comparison_folder"),
    *("comparison", "continuation", "learning", "pipeline"),
    *("inputs", "classifier", "diagnostics", "demo", "cli", "__main__"),
    "__init__",
]
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "requests", "urllib", "socket"}
# Libraries that write or send by themselves: each is used in one place, at the user's wish alone.
WRITING_LIBRARIES = {
    "torch.utils.tensorboard": "report/tensorboard_log.py",
    "tensorboard": "report/tensorboard_log.py",
    "mlflow": "report/mlflow_log.py",
}
LONGEST_FUNCTION, LONGEST_FILE = 60, 400

# What writes, wherever it is called; a call of `files` by one of these names is the way to write.
WRITING = {
    *("write_text", "write_bytes", "mkdir", "rmdir", "unlink", "rename", "touch", "symlink_to", "hardlink_to"),
    *("makedirs", "rmtree", "copyfile", "copytree", "mkdtemp", "mkstemp", "NamedTemporaryFile", "TemporaryDirectory"),
    *("savez", "savez_compressed", "savetxt", "tofile", "memmap", "open_memmap", "save_file", "to_csv", "to_parquet"),
}
# What writes to a file or to a buffer in memory, which is fine; safetensors.torch.save gives bytes and writes nothing.
WRITING_TO_FIRST = {"savefig", "save"}
WRITING_TO_SECOND = {"write_table", "dump"}
WRITING_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}


def tree_of(module: str) -> ast.Module:
    return ast.parse((SOURCE / module).read_text("utf-8"))


def part_of(module: str) -> str:
    """The place of a module in `ORDER`: its folder, or its own name."""
    return module.split("/", maxsplit=1)[0].removesuffix(".py")


def own_imports(tree: ast.Module) -> Iterator[str]:
    """The places in `ORDER` that a module imports from, inside functions too; relative imports are ".".

    The version is a plain text in the package itself, not something built on the rest, and may be asked for.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("steadylens."))
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "."
        elif isinstance(node, ast.ImportFrom) and is_own(node.module or ""):
            deeper = (node.module or "").split(".")[1:]
            yield from deeper[:1] or [alias.name for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "steadylens":
            yield from [node.attr] if node.attr != "__version__" else []


def is_own(name: str) -> bool:
    return name == "steadylens" or name.startswith("steadylens.")


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call with the name that is called and, for an attribute, the name of what it belongs to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node, node.func.attr, node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            elif isinstance(node.func, ast.Name):
                yield node, node.func.id, ""


def buffers(tree: ast.AST) -> set[str]:
    """Names that hold a buffer in memory."""
    held = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(name in ("BytesIO", "StringIO") for _, name, _ in calls(node.value)):
            held |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return held


def opens_for_writing(call: ast.Call) -> bool:
    positional = call.args[1:] if isinstance(call.func, ast.Name) else call.args
    given = [*positional, *(k.value for k in call.keywords if k.arg == "mode")]
    modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return any(re.fullmatch(r"[rbt]*[wax+][rbt+]*([:|].*)?", mode) for mode in modes)


def writes(tree: ast.Module) -> list[str]:
    """What in a module writes to the disk, each as "name, line"."""
    in_memory = buffers(tree)
    found = [
        f"{n.attr}, line {n.lineno}" for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in WRITING_FLAGS
    ]
    for call, name, owner in calls(tree):
        target = None
        if name in WRITING_TO_FIRST | WRITING_TO_SECOND and ast.unparse(call.func) != "safetensors.torch.save":
            at = int(name in WRITING_TO_SECOND)
            target = call.args[at] if len(call.args) > at else None
        to_disk = (
            (name in WRITING and owner != "files")
            or (target is not None and not (isinstance(target, ast.Name) and target.id in in_memory))
            or (name == "open" and opens_for_writing(call))
            # A text's replace takes two arguments, a path's takes one.
            or (
                name == "replace" and isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords
            )
            or (
                owner in ("os", "shutil")
                and name in ("remove", "removedirs", "renames", "move", "copy", "copy2", "link")
            )
            or any(k.arg == "mmap_mode" and getattr(k.value, "value", "") not in ("r", None) for k in call.keywords)
        )
        if to_disk:
            found.append(f"{name}, line {call.lineno}")
    return found


def loads_code(tree: ast.Module) -> list[str]:
    """What in a module could run code that it reads, or talk to the network, each as "name, line"."""
    found = []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"import {name}, line {node.lineno}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]  # type: ignore[attr-defined]
    for call, name, owner in calls(tree):
        if (owner == "torch" and name in ("load", "save")) or (
            name in ("eval", "exec") and isinstance(call.func, ast.Name)
        ):
            found.append(f"{name}, line {call.lineno}")
        if any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in call.keywords):
            found.append(f"allow_pickle, line {call.lineno}")
    return found


def named_libraries(tree: ast.Module) -> set[str]:
    """Which of the libraries that write by themselves a module imports, by a statement or by name."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            given = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            names |= set(given) if called == "import_module" else set()
    return {library for library in WRITING_LIBRARIES for name in names if f"{name}.".startswith(f"{library}.")}


def lengths(tree: ast.Module) -> dict[str, int]:
    """The lines of each function's body, its docstring left out."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            found[node.name] = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
    return found


def test_all_modules_have_their_place() -> None:
    assert {part_of(module) for module in MODULES} == set(ORDER)
    assert len(MODULES) > 30


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    here, in_folder = part_of(module), "/" in module
    allowed = {*ORDER[: ORDER.index(here)], *([here] if in_folder else [])}
    assert set(own_imports(tree_of(module))) <= allowed


@pytest.mark.parametrize("module", [module for module in MODULES if module != "files.py"])
def test_only_files_writes_files(module: str) -> None:
    assert writes(tree_of(module)) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_library_that_writes_by_itself_has_one_place(module: str) -> None:
    assert named_libraries(tree_of(module)) <= {name for name, place in WRITING_LIBRARIES.items() if place == module}


@pytest.mark.parametrize(
    "code",
    [
        "import mlflow.entities",
        "from mlflow import MlflowClient",
        "from torch.utils import tensorboard",
        "importlib.import_module('torch.utils.tensorboard.summary')",
    ],
)
def test_the_use_of_a_library_that_writes_would_be_found(code: str) -> None:
    assert len(named_libraries(ast.parse(code))) == 1
    assert named_libraries(ast.parse("import torch.utils.data, mlflower; from tensor import board")) == set()


@pytest.mark.parametrize(
    ("code", "places"),
    [
        ("import steadylens.data.images as i", ["data"]),
        ("def f():\n    from steadylens.training.loop import fit", ["training"]),
        ("from steadylens import __version__, cli", ["cli"]),
        ("import steadylens\nsteadylens.__version__\nsteadylens.train", ["train"]),
        ("from . import images", ["."]),
        ("import numpy, steadylensy", []),
    ],
)
def test_an_import_would_be_found(code: str, places: list[str]) -> None:
    assert list(own_imports(ast.parse(code))) == places


@pytest.mark.parametrize("module", MODULES)
def test_nothing_loads_code_or_talks_to_the_network(module: str) -> None:
    assert loads_code(tree_of(module)) == []


@pytest.mark.parametrize("module", MODULES)
def test_functions_and_files_are_short(module: str) -> None:
    assert {name: n for name, n in lengths(tree_of(module)).items() if n > LONGEST_FUNCTION} == {}
    assert len((SOURCE / module).read_text("utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize(
    "code",
    [
        "open('a', 'w')",
        "open('a', mode='ab')",
        "path.open('xb')",
        "path.open('r+')",
        "tarfile.open(path, 'w:gz')",
        "path.write_text('a')",
        "path.parent.mkdir()",
        "path.replace(other)",
        "os.replace(a, b, src_dir_fd=None); shutil.rmtree(a)",
        "np.save(path, array)",
        "figure.savefig(path)",
        "figure.savefig('a.png')",
        "pq.write_table(table, path)",
        "json.dump(x, file)",
        "np.load(path, mmap_mode='r+')",
        "os.open(path, os.O_WRONLY)",
        "os.remove(path)",
        "tempfile.mkdtemp()",
    ],
)
def test_a_write_would_be_found(code: str) -> None:
    assert writes(ast.parse(code))


def test_reading_and_writing_to_memory_is_no_write() -> None:
    fine = """
files.write_bytes(path, b"")
files.rename(a, b)
content = BytesIO()
figure.savefig(content, format="svg")
open("a"); open("a", "rb"); path.open("r", encoding="utf-8"); tarfile.open(path, "r:*"); Image.open(content)
text.replace("a", "b"); np.load(path, mmap_mode="r"); json.dumps(x)
"""
    assert writes(ast.parse(fine)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "def f():\n    import socket",
        "torch.load(path, weights_only=True)",
        "torch.save(x, path)",
        "eval(text)",
        "exec(text)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_loading_code_would_be_found(code: str) -> None:
    assert loads_code(ast.parse(code))


def test_network_eval_is_no_eval() -> None:
    assert loads_code(ast.parse("network.eval(); np.load(path, allow_pickle=False); json.load(f)")) == []
