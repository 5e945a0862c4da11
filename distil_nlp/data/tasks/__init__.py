"""Tasks, one a file, by the names that ``transformers.pipeline`` has for them."""

from distil_nlp.data.tasks.base import TASKS, Forward, Predictor, Task
from distil_nlp.data.tasks.feature_extraction import FeatureExtraction
from distil_nlp.data.tasks.fill_mask import FillMask
from distil_nlp.data.tasks.question_answering import QuestionAnswering
from distil_nlp.data.tasks.text2text_generation import Text2TextGeneration
from distil_nlp.data.tasks.text_classification import TextClassification
from distil_nlp.data.tasks.text_generation import TextGeneration
from distil_nlp.data.tasks.token_classification import TokenClassification

__all__ = [
    "TASKS",
    "FeatureExtraction",
    "FillMask",
    "Forward",
    "Predictor",
    "QuestionAnswering",
    "Task",
    "Text2TextGeneration",
    "TextClassification",
    "TextGeneration",
    "TokenClassification",
]
