"""Words against tokens: words that hold others, repeated words, emoji, Chinese, long prompts."""

from __future__ import annotations

import pytest
from attnmap._prompt import Encoder, Encoding, TokenizerWatch, read, token_infos
from attnmap._words import fit_to_tokens, segment, slug
from tiny import bert_tokenizer, clip_tokenizer, metaspace_tokenizer, qwen_tokenizer

TOKENIZERS = {
    "clip": clip_tokenizer,
    "t5": lambda: metaspace_tokenizer(None, "</s>"),
    "gemma": lambda: metaspace_tokenizer("<bos>", None),
    "qwen": qwen_tokenizer,
    "bert": bert_tokenizer,
}


def mapped(kind: str, prompt: str, around: str = "{}", length: int = 77):
    tokenizer = TOKENIZERS[kind]()
    with TokenizerWatch({"tokenizer": tokenizer}) as watch:
        tokenizer([around.format(prompt)], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return read(prompt, [Encoder("tokenizer", lambda at, _: at)], watch.seen, {"tokenizer": tokenizer})


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
    assert len(prompt.words) + len(prompt.cut_off) == 300
    assert max(prompt.keys) < 77


def test_a_template_is_not_the_prompt():
    prompt = mapped("qwen", "frog", "<|im_start|>user\nfrog {}<|im_end|>\n<|im_start|>assistant\n")
    assert [word["text"] for word in prompt.words] == ["frog"] and len(prompt.tokens) == 2
    assert prompt.tokens[-1].kind == "end" and prompt.keys[0] > 3


def test_folder_names():
    assert slug("A red apple, on ../the beach!") == "a-red-apple-on-the-beach"
    assert slug("a 🐸") == "a-u1f438"


def test_an_encoder_that_was_not_called_is_an_error():
    from attnmap import RecordError

    with pytest.raises(RecordError, match="tokenizer"):
        read("a", [Encoder("tokenizer", lambda at, _: at)], {"tokenizer": []}, {"tokenizer": object()})
    assert Encoding("a", [1], [1], [(0, 1)]).text == "a"
