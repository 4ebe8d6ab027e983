"""Words against tokens: words that hold others, repeated words, emoji, Chinese, long prompts."""

from __future__ import annotations

import pytest
from attnmap._prompt import Encoder, TokenizerWatch, read, token_infos
from attnmap._words import fit_to_tokens, normalized, segment, slug
from tiny import bert_tokenizer, clip_tokenizer, metaspace_tokenizer, qwen_tokenizer

TOKENIZERS = {
    "clip": clip_tokenizer,
    "t5": lambda: metaspace_tokenizer(None, "</s>"),
    "gemma": lambda: metaspace_tokenizer("<bos>", None),
    "qwen": qwen_tokenizer,
    "bert": bert_tokenizer,
}

ENCODERS = [Encoder("tokenizer", lambda at, _: at)]


def mapped(kind: str, prompt: str, around: str = "{}", length: int = 77):
    tokenizer = TOKENIZERS[kind]()
    with TokenizerWatch({"tokenizer": tokenizer}) as watch:
        tokenizer([around.format(prompt)], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return read([prompt], ENCODERS, watch.seen, {"tokenizer": tokenizer})[0]


def texts(ranges, text):
    return [text[a:b] for a, b in ranges]


# The same cases as the tests of src/prompt/words.rs.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red apple,  and 24 h2o!!", ["A", "red", "apple", ",", "and", "24", "h2o", "!!"]),
        ("don't l\u2019eau 'tis dogs'", ["don't", "l\u2019eau", "'", "tis", "dogs", "'"]),
        ("blue-eyed\thair\nclip", ["blue", "-", "eyed", "hair", "clip"]),
        ("हिन्दी में एक मेंढक।", ["हिन्दी", "में", "एक", "मेंढक", "।"]),
        ("一只green青蛙。", ["一", "只", "green", "青", "蛙", "。"]),
        ("تفاحة حمراء، ضفدع", ["تفاحة", "حمراء", "،", "ضفدع"]),
        ("cafe\u0301 n\u0303", ["cafe\u0301", "n\u0303"]),
        ("🐸🍎 👩‍🚀👍🏽 🇩🇪🇫🇷 ❤️1️⃣", ["🐸", "🍎", "👩‍🚀", "👍🏽", "🇩🇪", "🇫🇷", "❤️", "1️⃣"]),
        (" \n\u3000", []),
    ],
)
def test_words_are_those_of_the_program(text, words):
    assert texts(segment(text), text) == words


def test_tokens_join_and_drop_words():
    assert fit_to_tokens([(0, 1), (1, 4), (5, 8)], [(0, 4)]) == [(0, 4)]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("around", ["{}", "sky: {} ."])
def test_words_that_hold_others(kind, around):
    prompt = mapped(kind, "sky skyscraper sky", around)
    assert [word["text"] for word in prompt.words] == ["sky", "skyscraper", "sky"]
    assert [word["occurrence"] for word in prompt.words] == [1, 1, 2]
    tokens = [word["tokens"] for word in prompt.words]
    flat = [token for word in tokens for token in word]
    assert flat == sorted(set(flat)), "no token lies in two words"
    for word in prompt.words:
        own = [prompt.tokens[index].range for index in word["tokens"]]
        assert "sky skyscraper sky"[min(a for a, _ in own) : max(b for _, b in own)] == word["text"]


@pytest.mark.parametrize("kind", ["clip", "qwen"])
@pytest.mark.parametrize("text", ["a 🐸 and a 👩‍🚀", "一只红苹果 and 青蛙", "Ünïcode CAFÉ naïve", "a  frog ,frog"])
def test_any_script(kind, text):
    prompt = mapped(kind, text)
    expected = [word for word in texts(segment(text), text) if any(c.isalnum() or ord(c) > 0x2000 for c in word)]
    assert [word["text"] for word in prompt.words] == expected
    for word in prompt.words:
        encoded = text.encode()[word["start"] : word["end"]]
        assert encoded.decode() == word["text"]
    for token in token_infos(text, prompt.tokens):
        text.encode()[token["start"] : token["end"]].decode()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_long_prompt_says_what_was_cut_off(kind):
    text = " ".join(f"frog apple{i % 7}" for i in range(150))
    prompt = mapped(kind, text)
    assert prompt.words and prompt.cut_off
    # A word whose end alone was cut off is in both lists, as `attnmap generate` has it.
    half = prompt.words[-1]["text"] == prompt.cut_off[0]
    assert len(prompt.words) + len(prompt.cut_off) == 300 + half
    assert max(prompt.keys) < 77


def test_a_template_is_not_the_prompt():
    prompt = mapped("qwen", "frog", "<|im_start|>user\nfrog {}<|im_end|>\n<|im_start|>assistant\n")
    assert [word["text"] for word in prompt.words] == ["frog"] and len(prompt.tokens) == 2
    assert prompt.tokens[-1].kind == "end" and prompt.keys[0] > 3


# The same cases as the tests of src/trace/spelling.rs.
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("cafe\u0301", "CAF\u00c9", True),
        ("\u212b", "\u00e5", True),
        ("red\u3000apple", "Red apple", True),
        ("\u845b\U000e0100", "\u845b", True),
        ("\u2764\ufe0f", "\u2764", True),
        ("\ufb01sh", "fish", False),
        ("o", "\u00f6", False),
        ("\u039f\u03a3", "\u03bf\u03c2", True),
    ],
)
def test_words_are_compared_as_in_the_program(one, other, same):
    assert (normalized(one) == normalized(other)) == same


def test_a_word_in_another_form_is_its_second_time():
    words = mapped("qwen", "caf\u00e9 cafe\u0301").words
    assert [word["occurrence"] for word in words] == [1, 2]


def test_folder_names():
    assert slug("A red apple, on ../the beach!") == "a-red-apple-on-the-beach"
    assert slug("a 🐸") == "a-u1f438"
    assert slug("\u039f\u03a3 \u845b\U000e0100") == "\u03bf\u03c3-\u845b"
    assert slug("?!") == "u3f-u21" and slug(" \u200b") == "untitled"


def test_an_encoder_that_was_not_called_is_an_error():
    from attnmap import RecordError

    with pytest.raises(RecordError, match="tokenizer"):
        read(["a"], ENCODERS, {"tokenizer": []}, {"tokenizer": object()})


def test_prompts_that_hold_one_another_have_their_own_tokens():
    """Prompts are encoded in order, and the negative ones behind them."""
    prompts = ["a red apple", "apple", "red apple", "apple"]
    tokenizer = clip_tokenizer()
    with TokenizerWatch({"tokenizer": tokenizer}) as watch:
        tokenizer(prompts, padding="max_length", max_length=20)
        tokenizer(["", "an ugly apple", "", ""], padding="max_length", max_length=20)
    for text, prompt in zip(prompts, read(prompts, ENCODERS, watch.seen, {"tokenizer": tokenizer})):
        assert [word["text"] for word in prompt.words] == text.split()
        assert prompt.keys == list(range(len(prompt.tokens))), "the start token, those of the words, the end token"


@pytest.mark.parametrize("text", ["ant", "assistant", "user", "a", "think", "im", "frog\n"])
def test_a_prompt_that_the_template_holds_too(text):
    prompt = mapped("qwen", text, "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    tokenizer = qwen_tokenizer()
    before = len(tokenizer("<|im_start|>user\n")["input_ids"])
    assert [word["text"] for word in prompt.words] == [text.strip()]
    assert prompt.keys[0] == before and [token.kind for token in prompt.tokens][-1] == "end"


def test_one_tokenizer_may_stand_under_two_names():
    tokenizer = clip_tokenizer()
    both = {"tokenizer": tokenizer, "tokenizer_2": tokenizer}
    with TokenizerWatch(both) as watch:
        tokenizer(["a frog"], padding="max_length", max_length=20)
    encoders = [*ENCODERS, Encoder("tokenizer_2", lambda at, _: at, beside=True)]
    [prompt] = read(["a frog"], encoders, watch.seen, both)
    assert [encoder["name"] for encoder in prompt.encoders] == ["text_encoder", "text_encoder_2"]


class Slow:
    """A tokenizer that does not tell where its tokens lie, with a character in three bytes."""

    all_special_ids = (0,)

    def decode(self, ids):
        return b"".join((b"", b"a", b" red", "蛙".encode()[:1], "蛙".encode()[1:2], "蛙".encode()[2:])[i] for i in ids).decode(errors="replace")


def test_tokens_without_offsets_are_looked_for():
    from attnmap._prompt import _spelt

    assert _spelt(Slow(), "a red 蛙 a", [0, 1, 2, 3, 4, 5, 1, 0]) == [(0, 0), (0, 1), (2, 5), (6, 7), (6, 7), (6, 7), (8, 9), (9, 9)]
