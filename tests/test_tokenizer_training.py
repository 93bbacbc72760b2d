"""New vocabularies: what is learned, what is kept, what comes back, and bad text."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="extra `train` is not installed")

from toy_languages import byte_tokenizer, greek, sentences
from toy_weights import TEMPLATE, toy_tokenizer
from tutelage.errors import InputError
from tutelage.training.byte_pairs import learn_merges
from tutelage.training.corpus import Piece, hold_out, read_corpus
from tutelage.training.tokenizer_training import (
    PlainEncoder,
    Vocabulary,
    check_lossless,
    check_same,
    parts_of,
    read_state,
    train_tokenizer,
)

pytestmark = pytest.mark.torch
LATIN = sentences(300)
GREEK = [greek(text) for text in sentences(300, seed=1)]


@pytest.fixture(scope="module")
def old():
    return byte_tokenizer(LATIN)


@pytest.fixture(scope="module", params=["extend", "replace"])
def new(request, old, tmp_path_factory):
    size = len(old) + 60 if request.param == "extend" else 320
    return request.param, train_tokenizer(old, GREEK, tmp_path_factory.mktemp("new"), size=size, mode=request.param)


# Byte pairs


def test_merges_worked_out_by_hand():
    """abab x 3, abc x 2, cc x 1: ab stands 8 times; then (ab, ab) 3 times, (ab, c) twice, (c, c) once."""
    words = [("abab", 3), ("abc", 2), ("cc", 1)]
    assert learn_merges([(list(word), count) for word, count in words], 10) == [("a", "b"), ("ab", "ab"), ("ab", "c")]
    assert learn_merges([(list(word), count) for word, count in words], 1) == [("a", "b")]
    assert learn_merges([(list("aaaa"), 2)], 10) == [("a", "a"), ("aa", "aa")]


def test_a_token_that_is_there_already_is_not_made_again():
    assert learn_merges([(list("ab"), 9), (list("cd"), 3)], 10, known={"ab"}) == [("c", "d")]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=8), st.integers(1, 5)), max_size=8))
def test_merges_are_those_of_counting_anew_each_time(words):
    tokens = [(list(word), count) for word, count in words]
    expected = []
    while True:
        counts = Counter()
        for word, count in tokens:
            for pair in pairwise(word):
                counts[pair] += count
        made = {"".join(pair) for pair in expected}
        left = {pair: count for pair, count in counts.items() if count >= 2 and "".join(pair) not in made}
        if not left:
            break
        best = min(left, key=lambda pair: (-left[pair], pair))
        expected.append(best)
        tokens = [(joined(word, best), count) for word, count in tokens]
    assert learn_merges([(list(word), count) for word, count in words], 1000) == expected


def joined(word, pair):
    found = []
    for token in word:
        if found and (found[-1], token) == pair and not isinstance(found[-1], Whole):
            found[-1] = Whole(found[-1] + token)
        else:
            found.append(token)
    return [str(token) for token in found]


class Whole(str):
    """A token just made, which is not joined again in the same pass."""

    __slots__ = ()


# Tokenizers


def test_text_of_the_language_takes_fewer_tokens_and_comes_back(old, new):
    before, after = (PlainEncoder(one)(GREEK) for one in (old, new[1]))
    assert sum(map(len, after)) < 0.4 * sum(map(len, before))
    strange = ["", " ", "\n\n", "été 漢字 🙂\t\x00", "<|im_end|> as words", "  two  spaces ", *GREEK[:20], *LATIN[:20]]
    encoder = PlainEncoder(new[1])
    assert [encoder.decode(ids) for ids in encoder(strange)] == strange
    assert new[1].convert_tokens_to_ids("<|im_end|>") not in encoder(["<|im_end|> as words"])[0]
    check_lossless(new[1], [Piece(text, "t", 1) for text in strange])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_comes_back(text):
    encoder = PlainEncoder(_shared_new())
    assert encoder.decode(encoder([text])[0]) == text


_MADE: list = []


def _shared_new():
    if not _MADE:
        import tempfile
        from pathlib import Path

        _MADE.append(train_tokenizer(byte_tokenizer(LATIN), GREEK, Path(tempfile.mkdtemp()), size=380))
    return _MADE[0]


def test_what_is_kept_of_the_old_tokenizer(old, new):
    mode, tokenizer = new
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.eos_token, tokenizer.pad_token) == (old.eos_token, old.pad_token)
    talk = [{"role": "user", "content": GREEK[0]}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == old.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>") == Vocabulary.of(tokenizer).added["<|im_start|>"]
    before, after = read_state(old), read_state(tokenizer)
    assert [before[part] for part in ("normalizer", "pre_tokenizer", "decoder")] == [
        after[part] for part in ("normalizer", "pre_tokenizer", "decoder")
    ]
    assert sorted(Vocabulary.of(tokenizer).ids.values()) == list(range(len(tokenizer)))
    if mode == "extend":
        known, ours = Vocabulary.of(old), Vocabulary.of(tokenizer)
        assert known.ids.items() <= ours.ids.items()
        assert ours.merges[: len(known.merges)] == known.merges
        assert PlainEncoder(tokenizer)(LATIN[:50]) == PlainEncoder(old)(LATIN[:50])


def test_every_added_token_is_used(old, tmp_path):
    new = train_tokenizer(old, GREEK, tmp_path, size=len(old) + 40)
    fresh = set(Vocabulary.of(new).ids.values()) - set(Vocabulary.of(old).ids.values())
    assert len(fresh) == 40
    # a token that only ever stands within a longer one has done its part; each other one is written somewhere
    made_of = {part for pair in Vocabulary.of(new).merges for part in pair}
    names = {number: token for token, number in Vocabulary.of(new).ids.items()}
    written = {number for ids in PlainEncoder(new)(GREEK) for number in ids}
    assert {number for number in fresh if names[number] not in made_of} <= written


def test_what_new_tokens_are_made_of(old, new):
    ours, known = Vocabulary.of(new[1]), Vocabulary.of(old)
    parts = parts_of(old, ours)
    names = {number: token for token, number in known.ids.items()}
    for token, number in ours.ids.items():
        assert "".join(names[part] for part in parts[number]) == token
        assert (len(parts[number]) == 1) == (token in known.ids)
    assert parts[ours.added["<|im_end|>"]] == (known.added["<|im_end|>"],)


def test_a_special_token_that_the_base_lacks_is_made_of_its_text(old):
    base = byte_tokenizer(LATIN, template=None, added=("<|endoftext|>",))
    parts = parts_of(base, Vocabulary.of(old))
    names = {number: token for token, number in Vocabulary.of(base).ids.items()}
    assert "".join(names[part] for part in parts[Vocabulary.of(old).added["<|im_start|>"]]) == "<|im_start|>"
    check_same(base, old)


def test_bytes_that_the_old_tokenizer_lacks(old, tmp_path):
    lacking = byte_tokenizer(LATIN, without="Q")
    with pytest.raises(InputError, match="cannot write this text without changing it: 'a Quick' comes back as 'a uick'"):
        check_lossless(lacking, [Piece("a Quick", "t", 1)])
    check_lossless(lacking, [Piece(text, "t", 1) for text in GREEK])
    parts = parts_of(lacking, Vocabulary.of(old))
    assert sorted(parts[Vocabulary.of(old).ids["Q"]]) == sorted(Vocabulary.of(lacking).ordinary.values())
    new = train_tokenizer(lacking, GREEK, tmp_path, size=330, mode="replace")
    check_lossless(new, [Piece("a Quick", "t", 1)])


def test_a_post_processor_finds_its_tokens_again(tmp_path):
    from tokenizers import processors

    old = byte_tokenizer(LATIN)
    end = old.eos_token_id
    old.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<|im_end|> $A", special_tokens=[("<|im_end|>", end)])
    new = train_tokenizer(old, GREEK, tmp_path, size=300, mode="replace")
    assert new.eos_token_id != end
    assert new(GREEK[0])["input_ids"][0] == new.eos_token_id


# What is refused


def test_sizes_that_cannot_be(old, tmp_path):
    with pytest.raises(InputError, match=f"{len(old)} is not more than {len(old)}"):
        train_tokenizer(old, GREEK, tmp_path, size=len(old))
    with pytest.raises(InputError, match=r"258 tokens are too few: each of the 256 bytes needs one.* 3 added"):
        train_tokenizer(old, GREEK, tmp_path, size=258, mode="replace")
    with pytest.raises(InputError, match=r"too small for a vocabulary of 9000.* set --vocabulary to \d+ or less"):
        train_tokenizer(old, GREEK[:5], tmp_path, size=9000)
    with pytest.raises(InputError, match="too small for a vocabulary of 9000"):
        train_tokenizer(old, GREEK[:5], tmp_path, size=9000, mode="replace")
    assert len(train_tokenizer(old, ["αβ αβ"], tmp_path)) > len(old), "without a size as many as the text gives"


def test_other_kinds_of_tokenizers(tmp_path):
    with pytest.raises(InputError, match="only tokenizers of byte-level BPE"):
        train_tokenizer(toy_tokenizer(), GREEK, tmp_path)


def test_different_tokenizers_are_told_apart(old):
    with pytest.raises(InputError, match="tokens are known to one of them only"):
        check_same(byte_tokenizer(GREEK), old)
    from tokenizers import normalizers

    other = byte_tokenizer(LATIN)
    other.backend_tokenizer.normalizer = normalizers.NFC()
    with pytest.raises(InputError, match="their normalizer differs"):
        check_same(other, old)


def test_text_that_does_not_come_back_is_named():
    from tokenizers import normalizers

    tokenizer = byte_tokenizer(LATIN)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    with pytest.raises(InputError, match=r"wiki.txt:13: .*'cafe\\u0301'|wiki.txt:13: .*comes back") as told:
        check_lossless(tokenizer, [Piece("fine\n", "wiki.txt", 11), Piece("fine\ncafe\u0301\n", "wiki.txt", 12)])
    assert "NFC" in str(told.value)


# Text files


def test_pieces_join_to_the_text(tmp_path):
    text = "one\n\ntwo\n" + "x" * 25 + "\nend"
    (tmp_path / "a.txt").write_text(text)
    pieces = read_corpus([tmp_path / "a.txt"], longest=10)
    assert "".join(piece.text for piece in pieces) == text
    assert [(piece.text, piece.line) for piece in pieces] == [("one\n\ntwo\n", 1), ("x" * 10, 4), ("x" * 10, 4), ("x" * 5 + "\nend", 4)]


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab \n"), min_size=1).filter(str.strip), st.integers(1, 9))
def test_nothing_is_lost_in_cutting(tmp_path_factory, text, longest):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(text, newline="")
    pieces = read_corpus([path], longest)
    assert "".join(piece.text for piece in pieces) == text
    assert all(0 < len(piece.text) <= longest for piece in pieces)
    seen = ""
    for piece in pieces:
        assert piece.line == seen.count("\n") + 1
        seen += piece.text


def test_bad_files_are_named(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine\nna\xefve\n")
    with pytest.raises(InputError, match=r"bad.txt:2: this is not UTF-8: byte 7 is 0xef"):
        read_corpus([bad])
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match="no text in this file"):
        read_corpus([tmp_path / "empty.txt"])
    with pytest.raises(InputError, match="no such file"):
        read_corpus([tmp_path / "none.txt"])
    with pytest.raises(InputError, match="at least one file"):
        read_corpus([])
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read_corpus([tmp_path / "mark.txt"])[0].text == "hello"


def test_holding_out():
    pieces = [Piece(f"text {number}", "t", number) for number in range(100)]
    learned, held = hold_out(pieces, 0.05, 0)
    assert (len(learned), len(held)) == (95, 5)
    assert {piece.line for piece in learned}.isdisjoint(piece.line for piece in held)
    assert hold_out(pieces, 0.05, 0) == (learned, held)
    with pytest.raises(InputError, match="too little text"):
        hold_out(pieces[:1], 0.05, 0)
    with pytest.raises(InputError, match="too little text"):
        hold_out([pieces[0]] * 50, 0.05, 0)
