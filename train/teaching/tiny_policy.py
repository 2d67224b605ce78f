"""Model, tokenizer and chat template of the `tiny` and `mini` policies: Qwen3-architecture models for CPU training.

Same as in Qwen3: the architecture (grouped-query attention with q/k norms, SwiGLU, RMSNorm, RoPE, tied embeddings), the
special tokens (`<|im_start|>`, `<|im_end|>`, `<tool_call>`, `<tool_response>`, `<think>` ...), and the chat template's
layout of tools, tool calls (Hermes JSON) and tool responses. Differences and their reasons:

- The vocabulary has about 2,000 tokens, since the embedding of a 151k vocabulary would be 99% of a model of this size.
- Text is split so that a capitalised word is the same token sequence wherever it stands (after a space, after a quote).
  Qwen's own split glues the character before a word to it, so that an entity in a question and in a JSON argument have
  different tokens, and a small model has to learn a dictionary before it can copy.
- The template writes a tool as one short JSON line (name, parameter names with type or enum, description) without the
  JSON Schema boilerplate: the same facts in a third of the tokens. `?` marks an optional parameter.
- The thinking switch (`enable_thinking`) and the empty block that opens a turn without thinking are Qwen3's. Qwen3's
  template drops that block from earlier turns. Ours keeps it, so that a longer conversation only appends text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from train.policies.chat_templates import TINY_TEMPLATE

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAG_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")

# A lower-case word includes the space before it. A space before a capitalized word belongs to the previous word
# instead, so that a name of several words has no piece that is only a space, which would not predict the next piece.
# Each digit is separate. Everything between is one piece.
WORD_SPLIT = (
    r" ?\p{Ll}+(?: (?=\p{Lu}))?|\p{Lu}\p{Ll}*(?: (?=\p{Lu}))?|\p{N}(?: (?=\p{Lu}))?"
    r"|[^\p{L}\p{N}]+(?= \p{Ll})|[^\p{L}\p{N}]+|\p{L}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens and the tiny chat template, learned from `texts`."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS) - len(TAG_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=16,
    )
    tokenizer.train_from_iterator(_without_tags(texts), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens(list(TAG_TOKENS))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        padding_side="left",
    )
    wrapped.chat_template = TINY_TEMPLATE
    return wrapped


def _without_tags(texts: Iterable[str]) -> Iterator[str]:
    """The tags are whole tokens of their own: the merges must not be spent on their letters."""
    for text in texts:
        for tag in (*SPECIAL_TOKENS, *TAG_TOKENS):
            text = text.replace(tag, "\n")
        yield text


def new_model(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    layers: int,
    width: int,
    heads: int = 4,
    kv_heads: int | None = None,
    head_width: int | None = None,
    mlp_width: int | None = None,
) -> Qwen3ForCausalLM:
    """A freshly initialised fp32 Qwen3 model for `tokenizer`. What is left out follows from `width` and `heads`.

    The shapes of `tiny` and `mini` stand in train/experiments.py.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=mlp_width or 3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads // 2,
        head_dim=head_width or width // heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.float()
