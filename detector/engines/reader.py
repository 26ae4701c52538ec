"""The reader: the language model whose forward pass is read, with its tokenizer and what identifies both.

`load_reader()` gives the embedded default; a folder or a Hugging Face id gives any other decoder-only model.
transformers is imported when a reader is loaded, not with this module.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundwire.errors import GroundwireError, InputError, ModelError
from groundwire.fetch import DEFAULT_MODEL, MANIFEST, ensure_model

__all__ = ["DEFAULT_MODEL", "DTYPES", "Identity", "Reader", "identify", "load_reader"]

DTYPES = ("float32", "bfloat16", "float16", "int8")
MIB = 1 << 20
# Differ between releases of transformers that read the same model.
VOLATILE_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
UNLIMITED = 1 << 31  # tokenizers without a limit state a number above this
# What tokenizers differ in: digits, case, accents (composed or not), scripts, joined emoji, code, runs of white space.
TOKENIZER_PROBE = (
    "The bridge's 2 towers, built in 1889–1901, rise 1,234.56 m (±0.5 %); they'LL re-open on 2024-03-07!\n\n"
    "Zoë naïvely paid 3½ € in São Paulo. Cafe\u0301, straße, İstanbul, ﬁne. ΑΒΓ αβγ, Москва, שלום, مرحبا ١٢٣, हिन्दी, "
    "ภาษาไทย, 東京タワーは333メートル。서울 안녕\u3000北京\u00a0x\u200by 👩‍👩‍👧 🇵🇹👍🏽\r\n"
    '\tdef f(x_1: int) -> str:  return f"{x_1**2 != 0x1F}"   # https://a.b/c?d=e&f\n   <b>HTML</b> _snake_ camelCase '
)


@dataclass(frozen=True)
class Reader:
    """A loaded model.

    model: transformers' decoder-only model, in evaluation mode, without gradients. tokenizer: a fast one (offsets).
    id: the default's id, the folder's name, or the Hugging Face id.
    fingerprint: hexadecimal SHA-256 by part.
        config: config.json as sorted JSON, without what changes between releases of transformers.
        tokenizer: what it does, however it is written down: its vocabulary with ids, and the tokens (ids, offsets) it
            makes of `TOKENIZER_PROBE`.
        chat_template: its text, "none" where there is none.
        weights: for the default the GGUF file it was made of; else over every weight file's name, size, first and
            last MiB. That tells models and fine-tunes apart in milliseconds; it does not prove every byte.
    context: tokens that prompt and response may have together.
    dtype: as `load_reader` takes it; an int8 model's tensors do not tell.
    lock: held during a hooked forward pass, so that no pass runs under the hooks of another.
    """

    model: Any
    tokenizer: Any
    id: str
    fingerprint: dict[str, str]
    context: int
    dtype: str = "float32"
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)


@dataclass(frozen=True)
class Identity:
    """A model that somebody else loads: what transformers and vLLM take it from (`source`), and of a `Reader` all but
    the model."""

    source: str
    id: str
    tokenizer: Any
    fingerprint: dict[str, str]


def identify(
    model: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
) -> Identity:
    """Say which model it is, without its weights. Arguments and errors are those of `load_reader`.

    tokenizer, chat_template: used in the place of the model's own.
    """
    from groundwire.engines.quiet import quiet

    source, name = _named(model)
    local = Path(source).is_dir()
    options = _options(local, revision, trust_remote_code)
    with quiet() if local else nullcontext():
        try:
            from transformers import AutoConfig, AutoTokenizer

            AutoConfig.from_pretrained(source, **options)  # so that it is in the cache
            loaded = _fast(AutoTokenizer.from_pretrained(tokenizer or source, **({} if tokenizer else options)), source)
        except GroundwireError:
            raise
        except Exception as error:  # transformers, safetensors and tokenizers each raise their own
            raise _unreadable(source, local, error) from error
    if chat_template is not None:
        loaded.chat_template = chat_template
    folder = Path(source) if local else _snapshot(source, revision)
    return Identity(source, name, loaded, _fingerprint(folder, loaded))


def load_reader(
    model: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Reader:
    """Load a reader.

    model: None or `DEFAULT_MODEL` for the embedded default (fetched where it is not cached); a folder that
        `save_pretrained` wrote; else a Hugging Face id, at `revision` where given.
    dtype: "float32", "bfloat16", "float16", or "int8": 8-bit linear layers, the rest float32, on CPUs only.
    device: as torch spells it.
    trust_remote_code: let transformers run Python code that came with the model.

    Raises ModelError where the model cannot be found, reached or read, or is no decoder with a fast tokenizer;
    FetchError (a ModelError) where the default cannot be fetched; InputError on an unknown dtype, or int8 elsewhere.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}", expected=f"one of {', '.join(DTYPES)}", remedy="pass dtype='float32'")
    if dtype == "int8" and device != "cpu":
        raise InputError(
            f"dtype int8 on {device}",
            expected="the device cpu",
            remedy="pass dtype='bfloat16', which GPUs are made for",
        )
    source, name = _named(model)
    local = Path(source).is_dir()
    options = _options(local, revision, trust_remote_code)
    from groundwire.engines.int8 import to_int8
    from groundwire.engines.quiet import quiet

    with quiet() if local else nullcontext():
        try:
            config, language_model, tokenizer = _load(source, "float32" if dtype == "int8" else dtype, options)
            language_model = language_model.to(device).eval().requires_grad_(False)
            if dtype == "int8":
                to_int8(language_model)
        except GroundwireError:
            raise
        except Exception as error:  # transformers, safetensors and tokenizers each raise their own
            raise _unreadable(source, local, error) from error
    folder = Path(source) if local else _snapshot(source, revision)
    context = _context(config, tokenizer, name)
    return Reader(language_model, tokenizer, name, _fingerprint(folder, tokenizer), context, dtype)


def _named(model: str | os.PathLike[str] | None) -> tuple[str, str]:
    """What transformers is to load, and the reader's id."""
    if model is None or str(model) == DEFAULT_MODEL:
        return str(ensure_model()), DEFAULT_MODEL
    return _source(model)


def _options(local: bool, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"local_files_only": local, "trust_remote_code": trust_remote_code}
    return found if revision is None or local else {**found, "revision": revision}


def _source(model: str | os.PathLike[str]) -> tuple[str, str]:
    """What transformers is to load, and the reader's id. What looks like a path has to be a folder."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path), path.resolve().name
    spelled = os.fspath(model)
    if not isinstance(model, str) or path.is_absolute() or spelled.startswith((".", "~")) or spelled.count("/") > 1:
        raise ModelError(
            f"there is no folder {spelled!r}",
            expected="a folder with config.json, weights and tokenizer.json",
            remedy="correct the path, or leave the model out to use the embedded default",
        )
    return spelled, spelled


def _load(source: str, dtype: str, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Configuration, model and tokenizer. The cheap refusals come before the weights are read."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(source, **options)
    masked = any(name.endswith("ForMaskedLM") for name in config.architectures or ())
    if getattr(config, "is_encoder_decoder", False) or masked:
        raise ModelError(
            f"{source} is a {config.model_type} model, which does not generate from left to right alone",
            expected="a decoder-only language model, such as Llama, Qwen, Gemma, Mistral or GPT-2",
            remedy="choose another model, or leave it out to use the embedded default",
        )
    tokenizer = _fast(AutoTokenizer.from_pretrained(source, **options), source)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source, config=config, dtype=dtype, output_loading_info=True, **options
    )
    model, report = loaded  # transformers declares the model alone
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"{source} lacks {len(report['missing_keys'])} weights, {min(report['missing_keys'])} among them",
            expected="every weight of the architecture in its config.json",
            remedy="complete the download, or check that the folder holds a language model and not a part of one",
        )
    return config, model, tokenizer


def _fast(tokenizer: Any, source: str) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{source} has only a slow tokenizer ({type(tokenizer).__name__})",
            expected="a fast tokenizer (tokenizer.json), which knows the characters each token covers",
            remedy="convert it with transformers.convert_slow_tokenizer and save it beside the model",
        )
    return tokenizer


def _unreadable(source: str, local: bool, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:400] or type(error).__name__
    if local:
        return ModelError(
            f"{source} cannot be loaded: {reason}",
            expected="config.json, safetensors weights and tokenizer.json of one model that transformers knows",
            remedy="check that the folder is complete, for example by downloading the model again",
        )
    return ModelError(
        f"{source!r} is neither a folder here, nor in the Hugging Face cache, nor could it be loaded from the hub: "
        f"{reason}",
        expected="a folder, or the id of a model on the hub that this machine can reach and may read",
        remedy="check the id and the network; or download the model elsewhere and pass its folder, "
        "or set HF_HOME to a cache that holds it; or leave it out to use the embedded default",
    )


def _snapshot(source: str, revision: str | None) -> Path:
    """The folder in the Hugging Face cache that transformers has just loaded from."""
    from transformers.utils import cached_file

    return Path(str(cached_file(source, "config.json", revision=revision, local_files_only=True))).parent


def _context(config: Any, tokenizer: Any, name: str) -> int:
    text = config.get_text_config()
    for stated in (getattr(text, "max_position_embeddings", None), tokenizer.model_max_length):
        if stated and stated < UNLIMITED:
            return int(stated)
    raise ModelError(
        f"{name} states no context length",
        expected="max_position_embeddings in config.json, or model_max_length in tokenizer_config.json",
        remedy="add model_max_length to the folder's tokenizer_config.json",
    )


def _fingerprint(folder: Path, tokenizer: Any) -> dict[str, str]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stable = {key: value for key, value in config.items() if key not in VOLATILE_CONFIG}
    template = tokenizer.chat_template  # a dict where the model has several
    template = json.dumps(template, sort_keys=True) if isinstance(template, dict) else template
    return {
        "config": _sha256(json.dumps(stable, sort_keys=True)),
        "tokenizer": _sha256(json.dumps(_tokenizer_behaviour(tokenizer))),
        "chat_template": _sha256(template if isinstance(template, str) else json.dumps(template))
        if template
        else "none",
        "weights": _weights(folder),
    }


def _tokenizer_behaviour(tokenizer: Any) -> list[Any]:
    """Vocabulary, ids and offsets. Special tokens are added where `prompts.render` has them added."""
    encoded = tokenizer.backend_tokenizer.encode(TOKENIZER_PROBE, add_special_tokens=not tokenizer.chat_template)
    return [sorted(tokenizer.get_vocab().items()), encoded.ids, encoded.offsets]


def _weights(folder: Path) -> str:
    manifest = folder / MANIFEST
    if manifest.exists():
        return json.loads(manifest.read_text(encoding="utf-8"))["source_sha256"]
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(MIB))
            file.seek(max(size - MIB, 0))
            digest.update(file.read(MIB))
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
