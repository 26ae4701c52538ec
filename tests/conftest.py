"""What the tests share: signatures are checked while they run; tiny random models; the real reader; the data."""

from __future__ import annotations

import jaxtyping

# Before anything of groundwire is imported: shapes and types in its signatures are checked on every call.
jaxtyping.install_import_hook("groundwire", "beartype.beartype")

import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from groundwire.engines.reader import Reader, load_reader  # noqa: E402
from groundwire.errors import FetchError  # noqa: E402

# A test that stalls on a busy machine is not a slow test.
hypothesis.settings.register_profile("groundwire", deadline=None)
hypothesis.settings.load_profile("groundwire")

REPOSITORY = Path(__file__).parents[1]
VOCABULARY = 400
TINY_CONTEXT = 256
SENTENCES = (
    "The passages do not say when the bridge was built.",
    "Answer the question using only the passages below.",
    "Passage 1: The lighthouse was finished in 1889 by a builder from Lisbon.",
    "Question: Who built the lighthouse, and how high is it?",
    "It was built in 1889; it is 41 metres high, the keeper's log says.",
    "Summarize the following document. User: Assistant: system",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _tiny_tokenizer(chat_template: str | None) -> Any:
    """Byte-level BPE, learned from a few sentences: every text can be written with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[2] if chat_template else SPECIAL[0],
        pad_token=SPECIAL[0],
        model_max_length=TINY_CONTEXT,
    )
    fast.chat_template = chat_template
    return fast


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (d_model 32, 4 layers, context 256) with a chat template, as `save_pretrained` writes it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tiny_tokenizer(CHAT_TEMPLATE)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TINY_CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,  # wide enough that layers and tokens differ visibly
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return _save(tmp_path_factory.mktemp("readers") / "tiny-llama", model, tokenizer)


@pytest.fixture(scope="session")
def tiny_gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 (d_model 32, 4 layers, context 256) without a chat template."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = _tiny_tokenizer(None)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=TINY_CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    return _save(tmp_path_factory.mktemp("readers") / "tiny-gpt2", model, tokenizer)


def _save(folder: Path, model: Any, tokenizer: Any) -> Path:
    from groundwire.engines.quiet import quiet

    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reader() -> Reader:
    """The embedded default; fetched once into the user's cache."""
    try:
        return load_reader()
    except FetchError as error:
        pytest.skip(f"the default model is not cached and could not be fetched: {error.given}")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Labelled development data, which is not part of the product."""
    folder = Path(os.environ.get("GROUNDWIRE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no labelled data at {folder}: set GROUNDWIRE_DATA to its folder")
    return folder
