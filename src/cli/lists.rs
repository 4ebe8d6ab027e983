//! Lists in which something is given twice: it counts once, and that is told.

use std::collections::HashSet;

use super::print;

/// `list` with each entry once, in order of the first; what `option` names more than once is told
/// in one line. Entries are the same when `name` calls them the same.
pub fn once<T>(option: &str, list: Vec<T>, name: impl Fn(&T) -> String) -> Vec<T> {
    let (mut seen, mut again) = (HashSet::new(), Vec::new());
    let mut kept = Vec::with_capacity(list.len());
    for entry in list {
        let name = name(&entry);
        if seen.insert(name.clone()) {
            kept.push(entry);
        } else if !again.contains(&name) && again.len() < 100 {
            again.push(name);
        }
    }
    if !again.is_empty() {
        print::warn(format!("{option}: given more than once, counted once: {}", print::some_of(&again)));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::once;

    #[test]
    fn the_first_of_each_counts() {
        assert_eq!(once("--seeds", vec![3, 1, 3, 3, 0, 1], ToString::to_string), [3, 1, 0]);
    }
}
