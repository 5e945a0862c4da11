"""Objectives: one file each, named as in recipes."""

from distil_nlp.objectives.attentions import Attentions
from distil_nlp.objectives.base import OBJECTIVES, LayerObjective, Objective
from distil_nlp.objectives.cka import CKA
from distil_nlp.objectives.cls_states import ClsStates
from distil_nlp.objectives.contrastive import Contrastive
from distil_nlp.objectives.dist import DIST
from distil_nlp.objectives.dkd import DKD
from distil_nlp.objectives.embeddings import Embeddings
from distil_nlp.objectives.gram import Gram
from distil_nlp.objectives.hidden_states import HiddenStates
from distil_nlp.objectives.logits_jsd import LogitsJSD
from distil_nlp.objectives.logits_kl import LogitsKL
from distil_nlp.objectives.logits_mse import LogitsMSE
from distil_nlp.objectives.logits_reverse_kl import LogitsReverseKL
from distil_nlp.objectives.logits_skew_kl import LogitsSkewKL
from distil_nlp.objectives.logits_topk_kl import LogitsTopKKL
from distil_nlp.objectives.logits_tvd import LogitsTVD
from distil_nlp.objectives.margin_mse import MarginMSE
from distil_nlp.objectives.minilm import MiniLM
from distil_nlp.objectives.minilm_v2 import MiniLMv2
from distil_nlp.objectives.on_features import FeatureObjective, TokenObjective
from distil_nlp.objectives.on_logits import LogitsObjective
from distil_nlp.objectives.pkt import PKT
from distil_nlp.objectives.relation_graph import RelationGraph
from distil_nlp.objectives.rkd import RKD
from distil_nlp.objectives.sentence_embeddings import SentenceEmbeddings
from distil_nlp.objectives.similarity_preserving import SimilarityPreserving
from distil_nlp.objectives.task_loss import TaskLoss

__all__ = [
    "CKA",
    "DIST",
    "DKD",
    "OBJECTIVES",
    "PKT",
    "RKD",
    "Attentions",
    "ClsStates",
    "Contrastive",
    "Embeddings",
    "FeatureObjective",
    "Gram",
    "HiddenStates",
    "LayerObjective",
    "LogitsJSD",
    "LogitsKL",
    "LogitsMSE",
    "LogitsObjective",
    "LogitsReverseKL",
    "LogitsSkewKL",
    "LogitsTVD",
    "LogitsTopKKL",
    "MarginMSE",
    "MiniLM",
    "MiniLMv2",
    "Objective",
    "RelationGraph",
    "SentenceEmbeddings",
    "SimilarityPreserving",
    "TaskLoss",
    "TokenObjective",
]
