"""A reader of digits on a Cortex-M4 without a system: its classes, its size, its memory and its instructions.

    METAQ_DATA=… python benchmarks/firmware.py

The folder that ``metaq export --c`` writes is compiled by arm-none-eabi-gcc and run by QEMU as the board MPS2 with the
image AN386. Test images of MNIST go through the firmware as it is, and its classes are compared with those of PyTorch
on the weights of the file. Another program, with the same network, counts the instructions of opening the file and of
one image, by a timer of the board while QEMU takes a nanosecond an instruction, and finds how much of the stack was in
use. The same is timed on this machine.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from metaq.lab import data, runs
from metaq.lab.data import to_float
from metaq.model import checkpoint
from support.results import tell, write_json

ROOT = Path(__file__).resolve().parents[1]
FLASH_GOAL, BLOCK_GOAL = 40 << 10, 16 << 10
"""Bytes of the whole firmware, and of the memory of the decoder."""

TICK = 40
"""Nanoseconds of a tick of the timer, which are instructions here."""

TOOLS = ("make", "cc", "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
QEMU = ("qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none")
SEMIHOSTING = ("-semihosting-config", "enable=on,target=native")

BOARD_CLOCK = """
#define TIMER ((volatile uint32_t *)0x40000000u)
static void start_clock(void) { TIMER[2] = 0xffffffffu; TIMER[1] = 0xffffffffu; TIMER[0] = 1; }
static uint32_t clock_now(void) { return 0xffffffffu - TIMER[1]; }
"""
HOST_CLOCK = """
#include <stdio.h>
#include <time.h>
static void board_write(const char *text, size_t size) { fwrite(text, 1, size, stdout); }
static size_t board_read(uint8_t *out, size_t size) { return fread(out, 1, size, stdin); }
static void start_clock(void) {}
static uint32_t clock_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint32_t)(now.tv_sec * 1000000 + now.tv_nsec / 1000);
}
"""
PROGRAM = """
#include <string.h>
#include "network.h"
#ifdef BOARD
#include "board.h"
@BOARD@
#else
@HOST@
#endif
#define STACK 16384
static float input[NETWORK_INPUTS], output[NETWORK_OUTPUTS];

static void print(uint32_t number, const char *what) {
    char text[12], *at = text + 11;
    *at = ' ';
    do *--at = (char)('0' + number % 10); while (number /= 10);
    board_write(at, (size_t)(text + 12 - at));
    board_write(what, strlen(what));
    board_write("\\n", 1);
}

static void measure(void) {
    uint32_t start;
    uint8_t pixel;
    size_t i;
    start_clock();
    start = clock_now();
    if (network_open()) return;
    print(clock_now() - start, "open");
    for (;;) {
        for (i = 0; i < NETWORK_INPUTS && board_read(&pixel, 1) == 1; i++) input[i] = (float)pixel / 255;
        if (i < NETWORK_INPUTS) break;
        start = clock_now();
        if (network_run(input, output)) return;
        print(clock_now() - start, "image");
    }
    print((uint32_t)network_reader()->slots_used, "slots");
}

int main(void) {
#ifdef BOARD
    uint8_t *volatile top;
    uint8_t here;
    size_t i;
    top = &here - 256;
    memset(top - STACK, 0xa5, STACK);
    measure();
    for (i = 0; i < STACK && top[(int)i - STACK] == 0xa5; i++) continue;
    print((uint32_t)(STACK + 256 - i), "stack");
#else
    measure();
#endif
    return 0;
}
"""
"""With another ``main``: numbers of what was measured, and what they are."""


def call(command: Sequence[str | Path], given: bytes = b"") -> str:
    """What a command prints."""
    done = subprocess.run([*map(str, command)], input=given, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr.decode()[-2000:]}{done.stdout.decode()[-500:]}")
    return done.stdout.decode()


def make(folder: Path, *targets: str) -> str:
    """What make prints."""
    return call(["make", "-s", "-C", folder, *targets])


def measured(printed: str) -> dict[str, list[int]]:
    """Numbers of a measuring program by what they are."""
    found: dict[str, list[int]] = {}
    for line in printed.splitlines():
        number, what = line.split()
        found.setdefault(what, []).append(int(number))
    return found


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the firmware, and of the decoder alone."""
    text, held, zero = (int(each) for each in make(folder, "size").splitlines()[1].split()[:3])
    options = re.search(r"^DECODER = (.*)$", (folder / "Makefile").read_text(), re.MULTILINE)
    flags = re.search(r"^ARM_CFLAGS = (.*)$", (folder / "Makefile").read_text(), re.MULTILINE)
    assert options is not None
    assert flags is not None
    compiled = folder.parent / "decoder.o"
    command = ["arm-none-eabi-gcc", "-std=c99", "-ffp-contract=off", *flags[1].split(), *options[1].split()]
    call([*command, "-c", folder / "metaq.c", "-o", compiled])
    decoder = call(["arm-none-eabi-size", compiled]).splitlines()[1].split()
    return {
        "flash_bytes": text + held,
        "ram_bytes": held + zero,
        "decoder_code_bytes": int(decoder[0]) + int(decoder[1]),
    }


def counted(folder: Path, images: bytes) -> dict[str, Any]:
    """Instructions on the board, and seconds on this machine."""
    copy = Path(shutil.copytree(folder, folder.parent / "measuring"))
    (copy / "network.elf").unlink()
    (copy / "main.c").write_text(PROGRAM.replace("@BOARD@", BOARD_CLOCK).replace("@HOST@", HOST_CLOCK))
    make(copy, "arm", "network", "CFLAGS=-O2 -D_POSIX_C_SOURCE=199309L")
    board = measured(call([*QEMU, "-icount", "shift=0", *SEMIHOSTING, "-kernel", copy / "network.elf"], images))
    host = measured(call([copy / "network"], images))
    return {
        "open_instructions": board["open"][0] * TICK,
        "image_instructions": max(board["image"]) * TICK,
        "slots_used": board["slots"][0],
        "stack_bytes": board["stack"][0],
        "host_open_seconds": host["open"][0] / 1e6,
        "host_image_seconds": max(host["image"]) / 1e6,
    }


def classes(folder: Path, images: torch.Tensor) -> tuple[list[int], float]:
    """What the firmware says, and the seconds that QEMU takes."""
    begun = time.perf_counter()
    printed = call([*QEMU, *SEMIHOSTING, "-kernel", folder / "network.elf"], images.numpy().tobytes())
    return [int(line.split()[0]) for line in printed.splitlines()], time.perf_counter() - begun


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=ROOT / "models" / "lenet5-mnist.metaq", help="the .metaq file")
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST; else $METAQ_DATA")
    parser.add_argument("--images", type=int, default=1000, help="how many test images the firmware classifies")
    parser.add_argument("--counted", type=int, default=2, help="of how many of them instructions are counted")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    options = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        tell(f"not measured, as these are not installed: {', '.join(missing)}")
        write_json({}, options.json)
        return
    test = data.load("mnist", data_dir=options.data_dir).test
    images = test.images[: options.images].contiguous()
    model = runs.build(runs.network_of(options.file), checkpoint.read(options.file)).eval()
    with torch.no_grad():
        expected = model(to_float(images).reshape(-1, 1, 28, 28)).argmax(dim=1).tolist()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "firmware"
        written = call([sys.executable, "-m", "metaq", "export", options.file, "-o", folder, "--c", "--json"])
        tell(written)
        make(folder, "arm")
        figures = {**sizes(folder), **counted(folder, images[: options.counted].numpy().tobytes())}
        tell(figures)
        found, seconds = classes(folder, images)
        header = (folder / "network.h").read_text()
    block = re.search(r"\? \d+ : (\d+)\)", header)
    assert block is not None
    right = sum(int(label) == each for label, each in zip(test.labels[: len(found)], found, strict=True))
    figures |= {
        "file_bytes": options.file.stat().st_size,
        "block_bytes": int(block[1]),
        "images": len(images),
        "same_classes": sum(each == other for each, other in zip(found, expected, strict=True)),
        "right": right,
        "qemu_seconds": seconds,
        "meets_flash_goal": figures["flash_bytes"] <= FLASH_GOAL,
        "meets_block_goal": int(block[1]) <= BLOCK_GOAL,
    }
    for name, value in figures.items():
        tell(f"{name:22} {value:,}" if isinstance(value, int) else f"{name:22} {value}")
    write_json(figures, options.json)


if __name__ == "__main__":
    main()
