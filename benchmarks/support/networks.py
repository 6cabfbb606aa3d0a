"""Networks of the bank whose packages carry weights without their code, or code that needs much else.

The attributes are named so that a module's state dict has the very names of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional

TINY = 1e-20
"""Least power in a band: the root of 0 has no derivative."""


class VoiceEncoder(nn.Module):
    """Resemblyzer's speaker encoder (Wan et al., "Generalized end-to-end loss for speaker verification", 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.similarity_weight = nn.Parameter(torch.zeros(1))
        self.similarity_bias = nn.Parameter(torch.zeros(1))
        self.lstm = nn.LSTM(40, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """From mel spectrograms (utterances, frames, 40) to embeddings of length 1 (utterances, 256)."""
        _, (hidden, _) = self.lstm(mels)
        return functional.normalize(self.linear(hidden[-1]).relu(), dim=1)


class VoiceActivity(nn.Module):
    """Silero VAD for 16 kHz, named as in its safetensors file."""

    CHUNK, CONTEXT = 512, 64

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """From audio (recordings, samples), whole chunks, to probabilities of speech (recordings, chunks)."""
        layers = (self.conv1, self.conv2, self.conv3, self.conv4)
        return speech_probabilities(
            in_chunks(audio, self.CHUNK, self.CONTEXT), self.stft_conv, layers, self.lstm_cell, self.final_conv
        )


def in_chunks(audio: torch.Tensor, chunk: int, context: int) -> torch.Tensor:
    """Chunks with some samples before and, mirrored, after them: (recordings, chunks, samples)."""
    chunks = functional.pad(audio, (context, 0)).unfold(1, context + chunk, chunk)
    return functional.pad(chunks, (0, context), mode="reflect")


def speech_probabilities(
    chunks: torch.Tensor,
    transform: Callable[[torch.Tensor], torch.Tensor],
    layers: Iterable[nn.Module],
    cell: nn.LSTMCell,
    last: nn.Module,
) -> torch.Tensor:
    """Silero's network: `transform` gives real and imaginary parts one after the other."""
    state = None
    found = []
    for chunk in chunks.unbind(dim=1):
        real, imaginary = transform(chunk[:, None]).chunk(2, dim=1)
        hidden = (real.square() + imaginary.square()).clamp(min=TINY).sqrt()
        for layer in layers:
            hidden = layer(hidden).relu()
        state = cell(hidden[..., 0], state)
        found.append(last(state[0][..., None].relu()).sigmoid()[:, 0, 0])
    return torch.stack(found, dim=1)


class VoiceActivityOfRate(nn.Module):
    """Silero VAD for one rate, named as in its TorchScript file, where its transform is a buffer."""

    def __init__(self, *, chunk: int) -> None:
        super().__init__()
        self._chunk = chunk
        bands = chunk // 4 + 1
        self.stft = nn.Module()
        self.stft.register_buffer("forward_basis_buffer", torch.zeros(2 * bands, 1, chunk // 2))
        self.encoder = nn.ModuleList(
            nn.ModuleDict({"reparam_conv": nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1)})
            for inputs, outputs, stride in ((bands, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        )
        self.decoder = nn.ModuleDict(
            {
                "rnn": nn.LSTMCell(128, 128),
                "decoder": nn.Sequential(nn.Dropout(), nn.ReLU(), nn.Conv1d(128, 1, 1), nn.Sigmoid()),
            }
        )

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """From audio (recordings, samples), whole chunks, to probabilities of speech (recordings, chunks)."""
        basis = self.stft.forward_basis_buffer

        def transform(chunk: torch.Tensor) -> torch.Tensor:
            return functional.conv1d(chunk, basis, stride=self._chunk // 4)

        layers = [layer["reparam_conv"] for layer in self.encoder]
        chunks = in_chunks(audio, self._chunk, self._chunk // 8)
        return speech_probabilities(chunks, transform, layers, self.decoder["rnn"], self.decoder["decoder"][2])


class VoiceActivityOfRates(nn.Module):
    """Silero VAD for 16 and for 8 kHz, as its TorchScript file has them side by side."""

    def __init__(self) -> None:
        super().__init__()
        self._model = VoiceActivityOfRate(chunk=512)
        self._model_8k = VoiceActivityOfRate(chunk=256)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """Probabilities for audio of 16 kHz and, after them, for that of 8 kHz (recordings, chunks of both)."""
        return torch.cat([self._model(fine), self._model_8k(coarse)], dim=1)


class BidirectionalLstm(nn.Module):
    """An LSTM in both directions and a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, width, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Same shape in and out: (images, columns, width)."""
        return self.linear(self.rnn(hidden)[0])


class TextRecognizer(nn.Module):
    """EasyOCR's second generation recogniser (Shi, Bai and Yao, "An end-to-end trainable network …", 2015)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        width = 256
        layers: list[nn.Module] = []
        for inputs, outputs, bias, pool in (
            (1, 32, True, (2, 2)),
            (32, 64, True, (2, 2)),
            (64, 128, True, None),
            (128, 128, True, (2, 1)),
            (128, 256, False, None),
            (256, 256, False, (2, 1)),
        ):
            layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias))
            layers += [] if bias else [nn.BatchNorm2d(outputs)]
            layers.append(nn.ReLU())
            layers += [] if pool is None else [nn.MaxPool2d(pool, pool)]
        layers += [nn.Conv2d(width, width, 2), nn.ReLU()]
        self.FeatureExtraction = nn.ModuleDict({"ConvNet": nn.Sequential(*layers)})
        self.SequenceModeling = nn.Sequential(BidirectionalLstm(width), BidirectionalLstm(width))
        self.Prediction = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From images (images, 1, 64, width), values -1 to 1, to logits (images, columns, classes)."""
        features = self.FeatureExtraction["ConvNet"](images).mean(dim=2)
        return self.Prediction(self.SequenceModeling(features.mT))


def double_convolution(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    """A convolution over single pixels and one over 3 x 3, both normalised."""
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 1),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UpConvolution(nn.Module):
    """Its convolutions under the attribute that the file names."""

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.conv = double_convolution(inputs, middle, outputs)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Maps of the same height and width."""
        return self.conv(hidden)


class VggSlices(nn.Module):
    """VGG-16 with batch normalisation, cut where CRAFT takes its features; layers keep their numbers in VGG-16."""

    PLAN = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512)
    ENDS = (12, 19, 29, 39)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in self.PLAN:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, step, 3, padding=1), nn.BatchNorm2d(step), nn.ReLU()]
            channels = step
        begin = 0
        for number, end in enumerate(self.ENDS, start=1):
            names = range(begin, end)
            part = nn.Sequential()
            for name in names:
                part.add_module(str(name), layers[name])
            self.add_module(f"slice{number}", part)
            begin = end
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.Conv2d(1024, 1024, 1),
        )

    def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """The five features, finest first."""
        found = []
        for number in range(1, 6):
            hidden = self.get_submodule(f"slice{number}")(hidden)
            found.append(hidden)
        return found


class TextDetector(nn.Module):
    """CRAFT (Baek et al., "Character region awareness for text detection", 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.basenet = VggSlices()
        self.upconv1 = UpConvolution(1536, 512, 256)
        self.upconv2 = UpConvolution(768, 256, 128)
        self.upconv3 = UpConvolution(384, 128, 64)
        self.upconv4 = UpConvolution(192, 64, 32)
        self.conv_cls = nn.Sequential(
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 1), nn.ReLU()),
            nn.Conv2d(16, 2, 1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From normalised images (images, 3, height, width) to character and link maps (images, 2, half, half)."""
        *finer, deepest = self.basenet(images)
        hidden = deepest
        for number, feature in enumerate(reversed(finer), start=1):
            hidden = functional.interpolate(hidden, size=feature.shape[2:], mode="bilinear", align_corners=False)
            hidden = self.get_submodule(f"upconv{number}")(torch.cat([hidden, feature], dim=1))
        return self.conv_cls(hidden)


class PitchTracker(nn.Module):
    """CREPE, the tiny one (Kim et al., "CREPE: a convolutional representation for pitch estimation", 2018)."""

    CHANNELS = (1, 128, 16, 16, 16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        for number, (inputs, outputs) in enumerate(zip(self.CHANNELS, self.CHANNELS[1:], strict=False), start=1):
            kernel, stride = ((512, 1), (4, 1)) if number == 1 else ((64, 1), (1, 1))
            self.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, kernel, stride=stride))
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(outputs, eps=0.001))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """From normalised frames (frames, 1024) to the activations of 360 pitches, 20 cents apart."""
        hidden = frames[:, None, :, None]
        for number in range(1, len(self.CHANNELS)):
            hidden = functional.pad(hidden, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
            hidden = self.get_submodule(f"conv{number}")(hidden).relu()
            hidden = functional.max_pool2d(self.get_submodule(f"conv{number}_BN")(hidden), (2, 1))
        return self.classifier(hidden.permute(0, 2, 1, 3).flatten(1)).sigmoid()


def same(images: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """A convolution padded as TensorFlow does it: the odd pixel at the end; sides over the stride, rounded up."""
    kernels, strides = convolution.kernel_size[::-1], convolution.stride[::-1]
    pads: list[int] = []
    for size, kernel, stride in zip(images.shape[:1:-1], kernels, strides, strict=True):
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [missing // 2, missing - missing // 2]
    return convolution(functional.pad(images, pads))


def normalisation(channels: int) -> nn.BatchNorm2d:
    """As EfficientNet has it."""
    return nn.BatchNorm2d(channels, eps=0.001)


class InvertedBottleneck(nn.Module):
    """A block of EfficientNet-Lite, which has neither squeeze nor swish."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, middle, 1, bias=False)
            self._bn0 = normalisation(middle)
        self._depthwise_conv = nn.Conv2d(middle, middle, kernel, stride=stride, groups=middle, bias=False)
        self._bn1 = normalisation(middle)
        self._project_conv = nn.Conv2d(middle, outputs, 1, bias=False)
        self._bn2 = normalisation(outputs)
        self._expands = expansion > 1
        self._adds = stride == 1 and inputs == outputs

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Maps of the block's outputs."""
        inner = self._bn0(self._expand_conv(hidden)).clamp(0, 6) if self._expands else hidden
        inner = self._bn1(same(inner, self._depthwise_conv)).clamp(0, 6)
        inner = self._bn2(self._project_conv(inner))
        return hidden + inner if self._adds else inner


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for ImageNet (Tan and Le, "EfficientNet", 2019)."""

    STAGES: Sequence[tuple[int, int, int, int, int]] = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    """Repeats, kernel, stride of the first, expansion, channels."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = normalisation(32)
        self._blocks = nn.ModuleList()
        inputs = 32
        for repeats, kernel, stride, expansion, outputs in self.STAGES:
            for number in range(repeats):
                step = stride if number == 0 else 1
                block = InvertedBottleneck(inputs, outputs, expansion=expansion, kernel=kernel, stride=step)
                self._blocks.append(block)
                inputs = outputs
        self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self._bn1 = normalisation(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From images (images, 3, height, width), values -1 to 1, to logits (images, 1000)."""
        hidden = self._bn0(same(images, self._conv_stem)).clamp(0, 6)
        for block in self._blocks:
            hidden = block(hidden)
        hidden = self._bn1(self._conv_head(hidden)).clamp(0, 6)
        return self._fc(hidden.mean(dim=(2, 3)))
