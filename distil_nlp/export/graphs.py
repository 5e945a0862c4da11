"""The files of an exported model: one graph, or one for each of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ONE = ("model",)
LAYOUTS = {  # of tasks whose models have several parts; the names are those of Optimum and transformers.js
    "text2text-generation": ("encoder_model", "decoder_model"),
    "text2text-generation-with-past": ("encoder_model", "decoder_model_merged"),
}


@dataclass(frozen=True)
class Graphs:
    """The ONNX files that make up one model.

    Args:
        folder: Where they are.
        parts: Their names without ``.onnx``, in the order in which they are run.
        quantized: Whether they are the int8 ones, ``*_quantized.onnx``.
    """

    folder: Path
    parts: tuple[str, ...] = ONE
    quantized: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The graph of each part."""
        return tuple(self.folder / f"{part}{'_quantized' if self.quantized else ''}.onnx" for part in self.parts)

    @property
    def all_files(self) -> list[Path]:
        """The graphs, and the weights that may lie beside them (above 2 GB)."""
        return [path for file in self.files for path in sorted(self.folder.glob(f"{file.name}*"))]

    @property
    def size_mb(self) -> float:
        """What a device must hold, in MB (10^6 bytes)."""
        return sum(path.stat().st_size for path in self.all_files) / 1e6

    def delete(self) -> None:
        """Deletes the files."""
        for path in self.all_files:
            path.unlink()


def find_graphs(folder: Path | str, *, quantized: bool = False) -> Graphs | None:
    """Returns the model that was exported to a folder, in float32 or ``quantized``; None where there is none."""
    layouts = (Graphs(Path(folder), parts, quantized) for parts in (ONE, *LAYOUTS.values()))
    return next((graphs for graphs in layouts if all(file.is_file() for file in graphs.files)), None)
