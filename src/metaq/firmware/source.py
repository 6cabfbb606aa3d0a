"""The text of the files that are written anew for every network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isinf, isnan

from metaq.container import File
from metaq.firmware.block import Needs
from metaq.firmware.network import Network, Step, Window
from metaq.firmware.reading import ALWAYS, Order, Read, activations_of, held_of
from metaq.model.checkpoint import restore
from metaq.tensors.quantized import Tensor

MADE = "/* Made by metaq export. */\n"

BYTES_PER_LINE = 20
CONSTANTS = ("factors", "shifts")
"""Names of the constants of a step."""

MODEL_H = """{made}#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_BYTES {size}

/* The .metaq file. */
extern const uint8_t model_bytes[MODEL_BYTES];

#endif
"""

MODEL_C = """{made}#include "model.h"

const uint8_t model_bytes[MODEL_BYTES] = {{
{lines}
}};
"""

NETWORK_H = """{made}#ifndef NETWORK_H
#define NETWORK_H

#include "metaq.h"

#define NETWORK_INPUTS {inputs}
#define NETWORK_OUTPUTS {outputs}
/* Whether main.c reads inputs as bytes, which it divides by 255. */
#define NETWORK_TAKES_BYTES {takes_bytes}

/* Memory, all of it static: of the decoder in bytes, and numbers of activations and of small tensors. */
#define NETWORK_BLOCK (sizeof(void *) > 4 ? {block_of_8} : {block_of_4})
#define NETWORK_ACTIVATIONS {activations}
#define NETWORK_HELD {held}

#ifdef __cplusplus
extern "C" {{
#endif

/* Opens the file, which network_run does if it has not been done: this takes longer than a run. */
metaq_status network_open(void);

/* The outputs for an input of {shape}, row by row. */
metaq_status network_run(const float *input, float *output);

/* Tells how much of the block was in use. */
const metaq_reader *network_reader(void);

#ifdef __cplusplus
}}
#endif

#endif
"""

NETWORK_C = """{made}#include "network.h"

#include <string.h>

#include "layers.h"
#include "model.h"

#define TRY(call)                                   \\
    do {{                                            \\
        const metaq_status found = (call);          \\
        if (found != METAQ_OK) return found;        \\
    }} while (0)

static uint64_t block[(NETWORK_BLOCK + 7) / 8];
static float memory[NETWORK_ACTIVATIONS];
{held}{constants}static metaq_reader reader;
static int is_open;

/* {passes} */
static metaq_status run(const float *input, float *output) {{
{steps}    memcpy(output, {output}, NETWORK_OUTPUTS * sizeof *output);
    return METAQ_OK;
}}

metaq_status network_open(void) {{
    TRY(metaq_open(&reader, metaq_in_memory(model_bytes, sizeof model_bytes), block, sizeof block));
{kept}    is_open = 1;
    return METAQ_OK;
}}

metaq_status network_run(const float *input, float *output) {{
    metaq_status status;
    if (!is_open) TRY(network_open());
    status = run(input, output);
    /* A reader that has refused something goes on refusing. */
    if (status != METAQ_OK) is_open = 0;
    return status;
}}

const metaq_reader *network_reader(void) {{ return &reader; }}
"""


def model_files(data: bytes) -> dict[str, str]:
    """The file as an array."""
    lines = (
        "    " + ", ".join(f"0x{byte:02x}" for byte in data[start : start + BYTES_PER_LINE]) + ","
        for start in range(0, len(data), BYTES_PER_LINE)
    )
    return {
        "model.h": MODEL_H.format(made=MADE, size=len(data)),
        "model.c": MODEL_C.format(made=MADE, lines="\n".join(lines)),
    }


def network_files(
    network: Network,
    file: File,
    order: Order,
    needs: Needs,
    *,
    input_shape: Iterable[int],
    takes_bytes: bool,
) -> dict[str, str]:
    """What computes the network."""
    places, activations = activations_of(network)
    held_places, held = held_of(order, len(network.steps))
    numbers = {entry.name: number for number, entry in enumerate(file.entries)}
    writer = _Writer(places, order, held_places, numbers)
    kept = "".join(map(writer.read, (read for read in order.reads if read.at == ALWAYS)))
    header = NETWORK_H.format(
        made=MADE,
        inputs=network.sizes[0],
        outputs=network.sizes[network.output],
        takes_bytes=int(takes_bytes),
        block_of_4=needs.block_bytes[4],
        block_of_8=needs.block_bytes[8],
        # An array has an element at least.
        activations=max(activations, 1),
        held=held,
        shape=" x ".join(map(str, input_shape)),
    )
    code = NETWORK_C.format(
        made=MADE,
        held="static float held[NETWORK_HELD];\n" if held else "",
        constants="".join(_constant(numbers[name], file.tensors[numbers[name]]) for name in order.packed),
        passes=passes_of(order),
        steps="".join(writer.step(number, step) for number, step in enumerate(network.steps)),
        output=writer.place(network.output),
        kept=kept,
    )
    return {"network.h": header, "network.c": code}


def passes_of(order: Order) -> str:
    """How a run goes over the file, in a sentence."""
    if not order.back:
        return "A run goes over the file once."
    back = ", ".join(map(_plain, order.back))
    return f"A run goes over parts of the file up to {order.passes} times: it goes back to {back}."


class _Writer:
    """Calls of the functions of ``layers.h``."""

    def __init__(self, places: list[int | None], order: Order, held_places: list[int], numbers: dict[str, int]) -> None:
        self._places = places
        self._numbers = numbers
        self._packed = order.packed
        self._reads = list(zip(order.reads, held_places, strict=True))

    def place(self, value: int) -> str:
        """Where an activation lies."""
        offset = self._places[value]
        return "input" if offset is None else f"memory + {offset}"

    def read(self, read: Read) -> str:
        """The call that reads a small tensor."""
        offset = next(offset for each, offset in self._reads if each is read)
        return f"    TRY(layer_keep(&reader, {read.tensor}, held + {offset})); /* {_plain(read.name)} */\n"

    def step(self, number: int, step: Step) -> str:
        """What is read before a step, and the step."""
        before = "".join(self.read(read) for read, _ in self._reads if read.at == number)
        arguments = [*map(self.place, step.inputs), self.place(step.output)]
        if step.does == "weigh":
            assert step.tensors[0] is not None
            tensor = str(self._numbers[step.tensors[0]])
            call = f"TRY(layer_weigh(&reader, {tensor}, &window, {', '.join(arguments)}));"
        else:
            if step.window is not None:
                arguments.insert(0, "&window")
            arguments += [self._held(number, name) for name in step.tensors]
            arguments += [name if each else "NULL" for name, each in zip(CONSTANTS, step.constants, strict=False)]
            arguments += map(_number, step.numbers)
            call = f"layer_{step.does}({', '.join(arguments)});"
        declared = [] if step.window is None else [f"static const layer_window window = {_window(step.window)};"]
        declared += [_declared(name, each) for name, each in zip(CONSTANTS, step.constants, strict=False) if each]
        comment = f"    /* {_plain(step.layer)} */\n"
        if not declared:
            return f"{before}{comment}    {call}\n"
        inside = "".join(f"        {line}\n" for line in (*declared, call))
        return f"{before}{comment}    {{\n{inside}    }}\n"

    def _held(self, number: int, name: str | None) -> str:
        if name is None:
            return "NULL"
        if name in self._packed:
            return _constant_name(self._numbers[name])
        offset = next(offset for each, offset in self._reads if each.use == number and each.name == name)
        return f"held + {offset}"


def _constant_name(number: int) -> str:
    return f"tensor_{number}"


def _constant(number: int, tensor: Tensor) -> str:
    """A small tensor that the decoder cannot read."""
    values = restore([tensor])[tensor.name].float().reshape(-1).tolist()
    return f"/* {_plain(tensor.name)}, which is packed by Zstandard */\n{_declared(_constant_name(number), values)}\n"


def _declared(name: str, values: Sequence[float]) -> str:
    return f"static const float {name}[{len(values)}] = {{{', '.join(map(_number, values))}}};"


def _window(window: Window) -> str:
    sides = (window.channels, window.height, window.width, window.outputs, window.out_height, window.out_width)
    pairs = (window.kernel, window.stride, window.padding, window.dilation)
    numbers = [*map(str, sides), str(window.groups), *(f"{{{first}, {second}}}" for first, second in pairs)]
    return f"{{{', '.join(numbers)}, {int(window.counts_padding)}}}"


def _number(value: float) -> str:
    """A number in C, without a macro of <math.h>: what is beyond float is infinite.

    Examples
    --------
    >>> _number(3), _number(0.5), _number(float("-inf")), _number(float("nan"))
    ('3', '0.5f', '-LAYER_INFINITY', 'LAYER_INFINITY - LAYER_INFINITY')
    """
    if isinstance(value, int):
        return str(value)
    if isnan(value):
        return "LAYER_INFINITY - LAYER_INFINITY"
    if isinf(value):
        return "LAYER_INFINITY" if value == inf else "-LAYER_INFINITY"
    return f"{float(value)!r}f"


def _plain(text: str) -> str:
    """Text that may stand in a comment of C."""
    return text.encode("ascii", "backslashreplace").decode().replace("*/", "* /").replace("/*", "/ *")
