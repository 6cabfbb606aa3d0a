"""``metaq report``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaq.cli import output
from metaq.cli.options import Force, Json
from metaq.config import require

if TYPE_CHECKING:
    from metaq.report.subject import Subject

COMPARISON_FILE = Path("comparison.html")


def report(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="Folder of a run, or a file of weights.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="Another, or an update of the first, to compare the two.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="The page. Default: RUN/report.html, FILE.report.html, or comparison.html here for two.",
        ),
    ] = None,
    net: Annotated[
        str | None, typer.Option("--net", help="Network, for its layers; default: the one the file names.")
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Print a model card in Markdown instead, for hubs; -o writes it.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a run or a file: figures, curves, tensors, and where the bytes went."""
    from metaq.container.source import is_update
    from metaq.report import changes, gathering

    sources = [source] if other is None else [source, other]
    if card:
        require(other is None and not as_json, "--card: is of one model, in Markdown; leave the rest out.")
        _write_card(source, net, out, force=force)
        return
    page = out or default_page(sources)
    output.claim(page, force=force, sources=_read(sources))
    found, models = None, None if other is None else changes.opened(source, other)
    if models is not None and is_update(sources[1]):
        # What is compared is the model that the update gives.
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / "model.metaq"
            given.write_bytes(models[1].encode())
            subjects = [gathering.gather(source, net=net), gathering.gather(given, net=net, name=sources[1].name)]
    else:
        subjects = [gathering.gather(each, net=net) for each in sources]
    if models is not None:
        found = changes.changes(*models)
    page_bytes = gathering.write(page, subjects, found)
    if as_json:
        output.print_json(
            {"file": str(page), "file_bytes": page_bytes, "subjects": [subject.to_dict() for subject in subjects]}
        )
        return
    for subject in subjects:
        output.print_table(subject.title, ["", "value"], _rows(subject))
        for reason in dict.fromkeys(subject.missing.values()):
            output.line(f"not here: {reason}")
    output.line(f"wrote {page}, {page_bytes:,} bytes")


def _write_card(source: Path, net: str | None, out: Path | None, *, force: bool) -> None:
    from metaq.files import write_bytes
    from metaq.report import gathering
    from metaq.report.card import card

    if out is not None:
        output.claim(out, force=force, sources=_read([source]))
    text = card(source, gathering.gather(source, net=net))
    if out is None:
        output.STDOUT.out(text, end="", highlight=False)
        return
    size = write_bytes(out, text.encode(errors="backslashreplace"))
    output.line(f"wrote {out}, {size:,} bytes; choose its license")


def _read(sources: list[Path]) -> list[Path]:
    """The files that a report of `sources` is about: those of a run are in its folder."""
    from metaq.lab import runs

    return [*sources, *(source / name for source in sources if source.is_dir() for name in runs.RUN_FILES)]


def default_page(sources: list[Path]) -> Path:
    """Where the page goes if nothing is said: with the run, beside the file, or for two in the current folder."""
    from metaq.lab import runs

    if len(sources) > 1:
        return COMPARISON_FILE
    (source,) = sources
    return source / runs.REPORT_FILE if source.is_dir() else source.with_name(f"{source.name}.{runs.REPORT_FILE}")


def _rows(subject: Subject) -> list[tuple[str, str]]:
    rows = [] if subject.sizes is None else output.size_rows(subject.sizes)
    for what, accuracy in (("accuracy", subject.after), ("accuracy before", subject.before)):
        if accuracy is not None:
            rows.append((f"{what}: {accuracy.what}", f"{accuracy.percent:.2f} %"))
    rows += [
        (what, told) for what, told in (("outputs kept", subject.kept), ("goal", subject.goal)) if told is not None
    ]
    if subject.seconds is not None:
        rows.append(("seconds", f"{subject.seconds:.1f}"))
    return rows
