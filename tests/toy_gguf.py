"""A tiny GGUF language model for tests: random float32 weights, one token a byte, ChatML; written with the package `gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toy_weights import SPECIALS, TEMPLATE

WIDTH, LAYERS, HEADS, KV_HEADS, INNER, CONTEXT = 64, 2, 4, 2, 128, 512


def byte_tokens() -> list[str]:
    """How byte-level vocabularies write the 256 bytes: printable ones as themselves, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def make_gguf(path: Path, *, architecture: str = "llama", tied: bool = True, seed: int = 0) -> Path:
    """Write the model; the same seed gives the same weights, already in llama.cpp's order of rows."""
    import gguf
    import numpy as np

    random = np.random.default_rng(seed)
    tokens = [*SPECIALS, *byte_tokens(), "th"]
    writer = gguf.GGUFWriter(path, architecture)
    _settings(writer, gguf, tokens)

    def add(name: str, *shape: int, spread: float = 0.2) -> None:
        writer.add_tensor(name, random.normal(0, spread, shape).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, (1 + random.normal(0, 0.1, WIDTH)).astype(np.float32))

    add("token_embd.weight", len(tokens), WIDTH, spread=0.5)
    ones("output_norm.weight")
    if not tied:
        add("output.weight", len(tokens), WIDTH)
    narrow = WIDTH // HEADS * KV_HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        ones(f"{block}.ffn_norm.weight")
        for part, out in (("attn_q", WIDTH), ("attn_k", narrow), ("attn_v", narrow)):
            add(f"{block}.{part}.weight", out, WIDTH)
            if architecture == "qwen2":
                add(f"{block}.{part}.bias", out)
        add(f"{block}.attn_output.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", INNER, WIDTH)
        add(f"{block}.ffn_up.weight", INNER, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _settings(writer: Any, gguf: Any, tokens: list[str]) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("toy")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
