"""An artifact is whole or absent, and whatever is wrong with one is told."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from faults import failing
from steadylens import files
from steadylens.data.images import Preprocessing
from steadylens.deployment.artifact import Artifact, load, pack
from steadylens.errors import ArtifactError, ConfigError, ResourceError
from steadylens.models import NetworkSpec, build

CLASSES = ("Käfer", "quo'te \"<b>", "third")
Rewrite = Callable[[Callable[[dict[str, Any]], object]], None]
SPEC = NetworkSpec("cnn-s", classes=3, image_size=8, depth=0, width=0.25, dropout=0.1)
PREPROCESSING = Preprocessing(8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def pack_into(folder: Path, network: nn.Module | None = None, **changes: Any) -> nn.Module:  # noqa: ANN401
    network = build(SPEC) if network is None else network
    arguments: dict[str, Any] = {
        "spec": SPEC,
        "classes": CLASSES,
        "preprocessing": PREPROCESSING,
        "temperature": 1.7,
        "scores": {"balanced_accuracy": {"value": 1 / 3, "low": 0.1, "high": 0.5}},
        "recipe": {"l2": 5e-4, "note": None, "sizes": (1, 2)},
    }
    pack(folder, network, **(arguments | changes))
    return network


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "model"
    pack_into(folder)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(pristine, tmp_path / "model")


@pytest.fixture
def rewrite(folder: Path) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """Change the document and give it a right digest again, as someone who forges one would."""

    def change_document(change: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads((folder / "model.json").read_text("utf-8"))
        del document["digest"]
        change(document)
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        document["digest"] = files.sha256(canonical.encode())
        (folder / "model.json").write_text(json.dumps(document))

    return change_document


def replace_weights(folder: Path, rewrite: Callable[..., None], change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    content = safetensors.torch.save(tensors)
    path.write_bytes(content)
    entry = {"sha256": files.sha256(content), "bytes": len(content)}
    rewrite(lambda document: document["files"].update({"model.safetensors": entry}))


def test_what_was_packed_is_loaded(tmp_path: Path) -> None:
    network = pack_into(tmp_path / "model").eval()
    artifact = load(tmp_path / "model")

    assert isinstance(artifact, Artifact)
    assert artifact.classes == CLASSES
    assert artifact.spec == SPEC
    assert artifact.preprocessing == PREPROCESSING
    assert artifact.temperature == 1.7
    assert not artifact.network.training
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(artifact.network(x), network(x))


def test_the_document_describes_the_model(pristine: Path) -> None:
    document = json.loads((pristine / "model.json").read_text("utf-8"))
    assert document["format"] == "steadylens"
    assert document["format_version"] == 1
    assert document["classes"] == list(CLASSES)
    assert document["network"]["name"] == "cnn-s"
    assert document["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
    assert "decoder_version" in document["preprocessing"]
    assert document["calibration"] == {"temperature": 1.7}
    assert document["scores"]["balanced_accuracy"]["value"] == 1 / 3
    assert document["recipe"] == {"l2": 5e-4, "note": None, "sizes": [1, 2]}
    assert document["files"]["model.safetensors"]["sha256"] == files.sha256_of_file(pristine / "model.safetensors")
    assert load(pristine).document == document
    assert {path.name for path in pristine.iterdir()} == {"model.json", "model.safetensors"}


def test_half_precision_and_channels_last_networks_are_stored_as_float32(tmp_path: Path) -> None:
    network = build(SPEC).to(memory_format=torch.channels_last).half()
    pack_into(tmp_path / "model", network)
    weights = load(tmp_path / "model").network.state_dict()
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}
    assert torch.equal(weights["head.weight"], network.state_dict()["head.weight"].float())


@pytest.mark.parametrize("name", ["cnn-s", "keras-blog"])
def test_a_cosine_head_is_stored_and_comes_back(tmp_path: Path, name: str) -> None:
    spec = replace(SPEC, name=name, depth=1, head="cosine")
    network = build(spec).eval()
    pack_into(tmp_path / "model", network, spec=spec)
    loaded, images = load(tmp_path / "model"), torch.randn(4, 3, 8, 8)
    assert loaded.spec.head == "cosine"
    assert torch.equal(loaded.network(images), network(images))


def test_a_document_without_a_head_has_a_linear_one(folder: Path, rewrite: Rewrite) -> None:
    rewrite(lambda document: document["network"].pop("head"))
    assert load(folder).spec.head == "linear"


def test_an_unknown_head_is_refused(folder: Path, rewrite: Rewrite) -> None:
    rewrite(lambda document: document["network"].update(head="square"))
    with pytest.raises(ArtifactError, match="cannot have a last layer 'square'"):
        load(folder)


def test_loading_and_packing_leave_the_global_generator_alone(tmp_path: Path) -> None:
    network = build(SPEC)
    before = torch.get_rng_state()
    pack_into(tmp_path / "model", network)
    load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("place", ["model", ".model.old", ".model.new"])
def test_what_is_no_model_is_not_replaced(tmp_path: Path, place: str) -> None:
    (tmp_path / place / "sub").mkdir(parents=True)
    (tmp_path / place / "thesis.docx").write_bytes(b"years of work")
    with pytest.raises(ConfigError, match=r"holds 'sub', which is no part of a model.*Name another folder"):
        pack_into(tmp_path / "model")
    assert (tmp_path / place / "thesis.docx").read_bytes() == b"years of work"


def test_a_file_is_not_replaced_by_a_model(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"notes")
    with pytest.raises(ConfigError, match="is a file"):
        pack_into(tmp_path / "model")


def test_an_older_artifact_is_replaced_whole(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"left from before")
    pack_into(folder, temperature=2.5)
    assert load(folder).temperature == 2.5
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(("error", "lasting"), [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, True)])
@pytest.mark.parametrize("older", [1.7, None])
def test_whichever_step_fails_the_folder_is_whole_or_absent(
    older: float | None, error: int, lasting: bool, pristine: Path, tmp_path: Path
) -> None:
    network = build(SPEC)
    for step in range(1, 60):
        folder = tmp_path / str(step) / "model"
        folder.parent.mkdir()
        if older:
            shutil.copytree(pristine, folder)
        with failing(step, error, lasting=lasting) as calls:
            try:
                pack_into(folder, network, temperature=2.0)
            except ResourceError:
                pass
            else:
                break
        assert calls.failed
        # A failure never costs the model that was there; a disk that lets nothing be renamed any more keeps it hidden.
        hidden = folder.with_name(".model.old")
        assert folder.exists() or not older or (lasting and load(hidden).temperature == older)
        assert not folder.exists() or load(folder).temperature in (older, 2.0)
        if not lasting:
            assert {path.name for path in folder.parent.iterdir()} <= {"model", ".model.old", ".model.new"}
        pack_into(folder, network, temperature=3.0)
        assert load(folder).temperature == 3.0
        assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert 10 < step < 59
    assert not calls.failed
    assert load(folder).temperature == 2.0


def test_a_model_that_a_killed_process_had_set_aside_is_there_until_there_is_another(folder: Path) -> None:
    folder.rename(folder.with_name(".model.old"))  # killed between two renames
    with failing(8), pytest.raises(ResourceError):
        pack_into(folder, temperature=2.0)
    assert load(folder).temperature == 1.7
    pack_into(folder, temperature=2.0)
    assert load(folder).temperature == 2.0


@given(st.data())
@settings(max_examples=150)
def test_any_changed_byte_is_refused(pristine: Path, data: st.DataObject) -> None:
    path = pristine / data.draw(st.sampled_from(["model.json", "model.safetensors"]))
    content = path.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    changed = content[position] ^ data.draw(st.integers(1, 255))
    try:
        path.write_bytes(content[:position] + bytes([changed]) + content[position + 1 :])
        try:
            artifact = load(pristine)
        except ArtifactError:
            return
        # The only harmless change: another way to write the same JSON, such as a newline for a space.
        assert path.name == "model.json"
        assert artifact.document == json.loads(content)
    finally:
        path.write_bytes(content)


@given(st.data())
@settings(max_examples=50)
def test_any_truncation_is_refused(pristine: Path, data: st.DataObject) -> None:
    path = pristine / data.draw(st.sampled_from(["model.json", "model.safetensors"]))
    content = path.read_bytes()
    length = data.draw(st.integers(0, len(content) - 2))  # the document's last byte is a newline
    try:
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            load(pristine)
    finally:
        path.write_bytes(content)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no model folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing, so the model is incomplete"):
        load(folder)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "model.onnx", "pytorch_model.bin"])
def test_a_file_that_is_not_listed_is_told(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=rf"{name} is not part of the model"):
        load(folder)


def test_a_folder_in_place_of_a_file_is_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(ArtifactError, match="could not be read: Is a directory"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"{" * 100_000, "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "should hold a JSON object"),
        (b"{}", "does not belong to a steadylens model"),
        (b'{"format": "steadylens", "format_version": 1}', "digest"),
        (b'{"format": "steadylens", "format_version": NaN}', "digest"),
    ],
)
def test_a_document_that_is_none_is_told(folder: Path, content: bytes, words: str) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        load(folder)


def test_an_edited_document_is_told(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(path.read_text("utf-8").replace("third", "other"), "utf-8")
    with pytest.raises(ArtifactError, match="is damaged or was edited: its digest"):
        load(folder)


def test_a_newer_format_is_told_before_anything_else(folder: Path) -> None:
    path = folder / "model.json"
    document = json.loads(path.read_text("utf-8")) | {"format_version": 2, "steadylens_version": "9.1"}
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"format version 2.*Install a newer steadylens.*9\.1"):
        load(folder)


def test_a_wrong_size_and_a_wrong_content_are_told_apart(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    with pytest.raises(ArtifactError, match=rf"has {len(content) + 1} bytes in place of {len(content)}"):
        load(folder)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="is damaged: its SHA-256"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["classes"].pop(), "names 2 classes, but its network tells 3 apart"),
        (lambda d: d["network"].update(classes=4, name="keras-blog"), "names 3 classes, but its network tells 4 apart"),
        (lambda d: d["network"].update(width=0.5), r"do not fit its network: '.*' is 'F32' \["),
        (lambda d: d["network"].update(depth=1), "they lack"),
        (lambda d: d["network"].update(name="nothing"), "does not describe a whole model"),
        (lambda d: d["network"].update(width="wide"), "has a width with which it cannot predict"),
        (lambda d: d["network"].update(members=0), "has a members with which it cannot predict"),
        (lambda d: d["network"].update(members=10**9), "has a members with which it cannot predict"),
        (lambda d: d["network"].update(members=2), "beyond what the network has"),
        (lambda d: d["network"].pop("depth"), "does not describe a whole model"),
        (lambda d: d.pop("calibration"), "does not describe a whole model"),
        (lambda d: d.update(preprocessing=[1, 2]), "does not describe a whole model"),
        (lambda d: d["preprocessing"].update(decoder_version=99), "wants images prepared in another way"),
        (lambda d: d["preprocessing"].update(fit="crop"), "wants images prepared in another way"),
        (lambda d: d["preprocessing"].update(background=[0, 0, 0]), "wants images prepared in another way"),
        (lambda d: d.pop("files"), r"does not list model\.safetensors"),
        (lambda d: d["files"].clear(), r"does not list model\.safetensors"),
        (lambda d: d["files"].update({"model.safetensors": "abc"}), "with None bytes, which do not fit its network"),
        (lambda d: d["files"].update({"../outside": {}}), "outside is missing"),
    ],
)
def test_a_forged_document_is_refused(
    folder: Path, rewrite: Callable[..., None], change: Callable[[dict[str, Any]], None], words: str
) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    rewrite(change)
    with pytest.raises(ArtifactError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("head.bias"), "they lack 'head.bias'"),
        (lambda t: t.update({"other": torch.zeros(1)}), "beyond what the network has, 'other'"),
        (lambda t: t.update({"head.bias": torch.zeros(4)}), r"'head.bias' is 'F32' \[4\] in place of"),
        (lambda t: t.update({"head.bias": torch.zeros(3).half()}), r"'head.bias' is 'F16' \[3\] in place of"),
        (lambda t: t["head.bias"].fill_(float("nan")), "NaN or infinity in 'head.bias'"),
        (lambda t: t["head.weight"].view(-1)[-1:].fill_(float("inf")), "NaN or infinity in 'head.weight'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, rewrite: Callable[..., None], change: Callable[[dict[str, Any]], None], words: str
) -> None:
    replace_weights(folder, rewrite, change)
    with pytest.raises(ArtifactError, match=words):
        load(folder)


def test_weights_that_are_no_safetensors_file_are_refused(folder: Path, rewrite: Callable[..., None]) -> None:
    content = b"\x80\x04 a pickle, for example"
    (folder / "model.safetensors").write_bytes(content)
    entry = {"sha256": files.sha256(content), "bytes": len(content)}
    rewrite(lambda document: document["files"].update({"model.safetensors": entry}))
    with pytest.raises(ArtifactError, match="is not a safetensors file"):
        load(folder)


def test_nothing_that_could_not_be_loaded_is_packed(tmp_path: Path) -> None:
    broken = build(SPEC)
    nn.init.constant_(broken.get_parameter("head.bias"), float("nan"))
    with pytest.raises(ArtifactError, match=r"NaN or infinity in 'head\.bias'"):
        pack_into(tmp_path / "model", broken)
    with pytest.raises(ArtifactError, match="names 2 classes"):
        pack_into(tmp_path / "model", classes=CLASSES[:2])
    with pytest.raises(ArtifactError, match="do not fit its network"):
        pack_into(tmp_path / "model", spec=replace(SPEC, depth=2))
    with pytest.raises(ArtifactError, match="prepared in another way"):
        pack_into(tmp_path / "model", preprocessing=replace(PREPROCESSING, fit="crop"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        pack_into(tmp_path / "model", scores={"log_loss": float("nan")})
    assert not list(tmp_path.iterdir())
