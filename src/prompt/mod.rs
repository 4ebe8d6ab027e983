//! From text to tokens and back: the CLIP tokenizer, words by byte range, phrases.
