"""What sentence-transformers notes beside a model, in its earlier and its present form."""

import copy

import pytest

from distil_nlp.data.embedding import Embedding, embedding_files, read_embedding
from distil_nlp.errors import ModelError

# As in sentence-transformers/all-MiniLM-L6-v2.
EARLIER = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 384,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    },
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
    "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.0.0"}},
}
# As sentence-transformers 6.2 saves it.
PRESENT = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        },
    ],
    "1_Pooling/config.json": {"embedding_dimension": 384, "pooling_mode": "lasttoken", "include_prompt": True},
    "config_sentence_transformers.json": {
        "default_prompt_name": None,
        "model_type": "SentenceTransformer",
        "prompts": {"document": "", "query": "Question: "},
    },
}


def changed(files, path, **values):
    files = copy.deepcopy(files)
    files.setdefault(path, {}).update(values)
    return files


def test_both_forms_are_read():
    assert read_embedding(EARLIER.get) == Embedding("mean", normalize=True)
    assert read_embedding(PRESENT.get) == Embedding("last", normalize=False)
    cls = changed(EARLIER, "1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    assert read_embedding(cls.get) == Embedding("cls", normalize=True)


def test_a_plain_model_has_none_of_it():
    assert read_embedding(lambda name: None) is None


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_is_written_is_read_back(pooling, normalize):
    files = embedding_files(Embedding(pooling, normalize), width=32, max_length=20)
    assert read_embedding(files.get) == Embedding(pooling, normalize)
    flags = {key: value for key, value in files["1_Pooling/config.json"].items() if key.startswith("pooling_mode")}
    token = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}[pooling]
    assert [key for key, value in flags.items() if value] == [f"pooling_mode_{token}"]
    assert files["sentence_bert_config.json"]["max_seq_length"] == 20


DENSE = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({**EARLIER, "modules.json": [*EARLIER["modules.json"], DENSE]}, "Dense"),
        ({**EARLIER, "modules.json": [{"path": "", "type": "custom_st.Transformer"}]}, "custom_st"),
        ({**EARLIER, "modules.json": {"0": "Transformer"}}, "not a list"),
        (changed(EARLIER, "1_Pooling/config.json", pooling_mode_max_tokens=True), "mean, max"),
        (changed(PRESENT, "1_Pooling/config.json", pooling_mode="weightedmean"), "weightedmean"),
        (changed(PRESENT, "config_sentence_transformers.json", default_prompt_name="query"), "'Question: '"),
        (changed(EARLIER, "sentence_bert_config.json", do_lower_case=True), "lower case"),
    ],
)
def test_what_is_made_in_another_way_is_refused(files, found):
    with pytest.raises(ModelError, match=found) as error:
        read_embedding(files.get)
    assert "task.pooling" in error.value.fix
