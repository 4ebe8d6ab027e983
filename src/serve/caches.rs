//! A few things that were used last, so that memory does not grow with the runs.

use std::sync::{Mutex, PoisonError};

/// Values by their keys: those that were used last, and no more than a number of them.
#[derive(Debug)]
pub(super) struct Latest<K, V> {
    most: usize,
    /// The last used at the end.
    kept: Mutex<Vec<(K, V)>>,
}

impl<K: PartialEq, V: Clone> Latest<K, V> {
    /// Keeps `most` values.
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// The value of `key`.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|(known, _)| known == key)?;
        let pair = kept.remove(found);
        let value = pair.1.clone();
        kept.push(pair);
        Some(value)
    }

    /// Keeps `value` in place of what `key` had.
    pub fn put(&self, key: K, value: V) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| *known != key);
        kept.push((key, value));
        if kept.len() > self.most {
            kept.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays() {
        let latest = Latest::new(2);
        latest.put("a", 1);
        latest.put("b", 2);
        assert_eq!(latest.get(&"a"), Some(1));
        latest.put("c", 3);
        assert_eq!((latest.get(&"a"), latest.get(&"b"), latest.get(&"c")), (Some(1), None, Some(3)));
        latest.put("a", 4);
        assert_eq!((latest.get(&"a"), latest.get(&"c")), (Some(4), Some(3)));
    }
}
