"""What lies beside the graphs is all that the tokenizer and sentence-transformers load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from distil_nlp.data.embedding import Embedding, embedding_files
from distil_nlp.export.checkpoint import copy_companions

# As the classes of transformers have them in `vocab_files_names`; some cannot be imported without sentencepiece.
WITH_SENTENCEPIECE = {
    "Bartpho": ("sentencepiece.bpe.model", "dict.txt"),
    "M2M100": ("vocab.json", "sentencepiece.bpe.model", "tokenizer_config.json"),
    "Marian": ("source.spm", "target.spm", "vocab.json", "target_vocab.json", "tokenizer_config.json"),
}


@pytest.mark.parametrize(
    "kind", ["Bertweet", "FSMT", "GPT2", "Luke", "Phobert", "ProphetNet", "T5", *WITH_SENTENCEPIECE]
)
def test_every_file_of_a_vocabulary_is_copied(tmp_path: Path, kind: str) -> None:
    names = WITH_SENTENCEPIECE.get(kind) or getattr(transformers, f"{kind}Tokenizer").vocab_files_names.values()
    checkpoint, export = tmp_path / "checkpoint", tmp_path / "onnx"
    checkpoint.mkdir()
    export.mkdir()
    for name in (*names, "model.safetensors", "optimizer.pt", "README.md"):
        (checkpoint / name).write_text("x")
    copy_companions(checkpoint, export)
    assert {path.name for path in export.iterdir()} == {*names}


def test_sentence_transformers_reads_the_same_length_of_an_export(tmp_path: Path) -> None:
    checkpoint, export = tmp_path / "checkpoint", tmp_path / "onnx"
    made = embedding_files(Embedding("cls", normalize=True), width=32, max_length=48)
    for name, value in made.items():
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_text(json.dumps(value))
    export.mkdir()
    copy_companions(checkpoint, export)
    assert {str(path.relative_to(export)) for path in export.rglob("*.json")} == {*made}
