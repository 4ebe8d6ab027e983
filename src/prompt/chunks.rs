//! Long prompts: which token goes into which chunk, as AUTOMATIC1111's web UI shares them out
//! (`modules/sd_hijack_clip.py`).

/// Chunks of a prompt, at most: each is 77 more keys for every cross-attention of every step.
pub(super) const MOST: usize = 16;

/// How many tokens before the end of a full chunk its last comma may stand to be its end (the web
/// UI's default).
const BACKTRACK: usize = 20;

/// What stands in a prompt, to be shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// A token.
    Token,
    /// A token that is a comma.
    Comma,
    /// The next so many tokens belong together: the vectors of an embedding. They begin another
    /// chunk where this has no room for all of them, unless none has.
    Together(usize),
    /// The end of the chunk.
    Break,
}

/// The tokens of each chunk by their number among all tokens, at most `room` in each. A chunk that
/// is full ends after its last comma where that is near, so that phrases stay whole. There is one
/// chunk at least, and a break before any token leaves an empty one.
pub(super) fn share_out(items: impl IntoIterator<Item = Item>, room: usize) -> Vec<Vec<usize>> {
    let mut chunks: Vec<Vec<usize>> = Vec::new();
    let mut chunk: Vec<usize> = Vec::new();
    let mut comma: Option<usize> = None;
    let mut next = 0;
    for item in items {
        if item == Item::Break {
            chunks.push(std::mem::take(&mut chunk));
            comma = None;
            continue;
        }
        if item == Item::Together(0) {
            continue;
        }
        if chunk.len() == room {
            let end = match comma {
                // A comma that finds no room begins the next chunk.
                Some(comma) if item != Item::Comma && room - comma <= BACKTRACK => comma + 1,
                _ => room,
            };
            let rest = chunk.split_off(end);
            chunks.push(std::mem::replace(&mut chunk, rest));
            comma = None;
        } else if item == Item::Comma {
            comma = Some(chunk.len());
        }
        if let Item::Together(count) = item {
            if count <= room && chunk.len() + count > room {
                chunks.push(std::mem::take(&mut chunk));
                comma = None;
            }
            continue;
        }
        chunk.push(next);
        next += 1;
    }
    if !chunk.is_empty() || chunks.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::Item::{Break, Comma, Together, Token};
    use super::*;

    fn sizes(items: &[(Item, usize)], room: usize) -> Vec<usize> {
        let items = items.iter().flat_map(|&(item, count)| std::iter::repeat_n(item, count));
        let chunks = share_out(items, room);
        let all: Vec<usize> = chunks.iter().flatten().copied().collect();
        assert_eq!(all, (0..all.len()).collect::<Vec<_>>(), "every token once, in order");
        chunks.iter().map(Vec::len).collect()
    }

    #[test]
    fn chunks_are_filled_and_broken() {
        assert_eq!(sizes(&[], 75), [0]);
        assert_eq!(sizes(&[(Token, 75)], 75), [75]);
        assert_eq!(sizes(&[(Token, 76)], 75), [75, 1]);
        assert_eq!(sizes(&[(Token, 3), (Break, 1), (Token, 2), (Break, 1)], 75), [3, 2]);
        assert_eq!(sizes(&[(Break, 2), (Token, 1)], 75), [0, 0, 1]);
        assert_eq!(sizes(&[(Break, 1)], 75), [0]);
    }

    #[test]
    fn what_belongs_together_stays_in_one_chunk() {
        let embedding = |count| [(Together(count), 1), (Token, count)];
        let at = |before: usize, count: usize| {
            let [first, second] = embedding(count);
            sizes(&[(Token, before), first, second, (Token, 1)], 75)
        };
        assert_eq!(at(66, 8), [75]);
        assert_eq!(at(67, 8), [75, 1]);
        for before in 68..75 {
            assert_eq!(at(before, 8), [before, 9], "{before} tokens before it");
        }
        assert_eq!(at(75, 8), [75, 9]);
        assert_eq!(at(1, 75), [1, 75, 1]);
        assert_eq!(at(0, 75), [75, 1]);
        // What fits into no chunk is cut where the chunk is full.
        assert_eq!(at(10, 80), [75, 16]);
        // A comma that is near does not move with it, but where the chunk is full to the last
        // token.
        let comma = |after: usize| {
            let [first, second] = embedding(8);
            sizes(&[(Token, 60), (Comma, 1), (Token, after), first, second], 75)
        };
        assert_eq!(comma(13), [74, 8]);
        assert_eq!(comma(14), [61, 22]);
        // Two side by side, and one after a break.
        let [first, second] = embedding(40);
        assert_eq!(sizes(&[first, second, first, second], 75), [40, 40]);
        assert_eq!(sizes(&[(Token, 70), (Break, 1), first, second], 75), [70, 40]);
    }

    #[test]
    fn a_full_chunk_ends_after_a_comma_that_is_near() {
        // The comma is token 55 of 0..75: 20 before the end, and what follows it moves on.
        assert_eq!(sizes(&[(Token, 55), (Comma, 1), (Token, 20)], 75), [56, 20]);
        assert_eq!(sizes(&[(Token, 54), (Comma, 1), (Token, 21)], 75), [75, 1]);
        assert_eq!(sizes(&[(Token, 74), (Comma, 1), (Token, 1)], 75), [75, 1]);
        // A comma as the first that finds no room does not look back, and is forgotten as an end.
        assert_eq!(sizes(&[(Token, 60), (Comma, 1), (Token, 14), (Comma, 1), (Token, 75)], 75), [75, 75, 1]);
        // A comma before a break is no end of the chunk after it.
        assert_eq!(sizes(&[(Token, 3), (Comma, 1), (Break, 1), (Token, 76)], 75), [4, 75, 1]);
    }
}
