//! The options of a command line that makes the same maps and pictures again.

use super::{option_words, quoted};
use crate::heatmap::{Aggregate, DEFAULT, DEFAULT_OF_CONCEPTS, Encoder, QuerySource, SiteFilter};
use crate::render::Display;
use crate::trace::By;
use serde_json::Value;
use std::fmt::Display as Show;
use std::path::Path;

/// What the words are, as an option with a space before; empty where they are words.
pub fn by_option(by: By) -> String {
    if by.is_word() { String::new() } else { format!(" --by {}", by.name()) }
}

/// The file of a mask as an option, with a space before; nothing where there is none.
pub fn mask_option(mask: Option<&Path>) -> String {
    let option = |mask: &Path| format!(" {}", option_words("--mask", &mask.display().to_string()));
    mask.map_or_else(String::new, option)
}

/// How maps are made and drawn, as options with a space before each; empty where all of it is what
/// a command does unasked. `concepts` says whether the run keeps concepts, of which the maps are
/// made unasked.
pub fn map_options(aggregate: &Aggregate, display: &Display, concepts: bool) -> String {
    let mut options = Vec::new();
    let narrowed = |filter: &SiteFilter| matches!(filter, SiteFilter::Layers(_) | SiteFilter::Resolutions(_));
    let unasked = match (concepts, aggregate.sites.iter().any(narrowed)) {
        (false, false) => DEFAULT,
        (false, true) => "all",
        (true, false) => DEFAULT_OF_CONCEPTS,
        // Who names sites without an aggregate has concepts of just those sites.
        (true, true) if !aggregate.sites.iter().any(|filter| matches!(filter, SiteFilter::Concepts)) => {
            DEFAULT_OF_CONCEPTS
        }
        (true, true) => "",
    };
    if aggregate.name != unasked {
        options.push(("aggregate".to_owned(), aggregate.name.clone()));
    }
    for filter in &aggregate.sites {
        match filter {
            SiteFilter::Layers(layers) => options.push(("layers".into(), join(layers))),
            SiteFilter::Resolutions(sizes) => options.push(("resolution".into(), join(sizes))),
            _ => {}
        }
    }
    options.extend(aggregate.heads.as_ref().map(|heads| ("heads".into(), heads.to_string())));
    if aggregate.queries != QuerySource::default() {
        let named = QuerySource::NAMED.iter().find(|(_, queries)| *queries == aggregate.queries);
        options.extend(named.map(|(name, _)| ("queries".into(), (*name).to_owned())));
    }
    if aggregate.encoder != Encoder::default() {
        options.push(("encoder".into(), aggregate.encoder.name().to_owned()));
    }
    options.extend(aggregate.steps.as_ref().map(|steps| ("steps-window".into(), steps.to_string())));
    let fields = |display: &Display| match serde_json::to_value(display) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let usual = fields(&Display::default());
    for (name, value) in fields(display).into_iter().filter(|(name, value)| usual.get(name) != Some(value)) {
        // Numbers are `f32`, which JSON's `f64` spells with all of their digits.
        let text = match (value.as_str(), value.as_u64(), value.as_f64()) {
            (Some(text), ..) => text.to_owned(),
            (_, Some(whole), _) => whole.to_string(),
            (_, _, number) => number.map_or_else(String::new, |number| (number as f32).to_string()),
        };
        options.push((name.replace('_', "-"), text));
    }
    options.iter().map(|(name, value)| format!(" --{name} {}", quoted(value))).collect()
}

fn join<T: Show>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Style;

    #[test]
    fn only_what_is_asked_for_is_written() {
        assert_eq!(map_options(&Aggregate::default(), &Display::default(), false), "");
        let layers = SiteFilter::Layers(vec!["up".parse().unwrap(), "*.attn2".parse().unwrap()]);
        let mut aggregate = Aggregate::named("all").unwrap().narrowed(layers);
        aggregate.heads = Some("0-3,7".parse().unwrap());
        let display = Display { style: Style::Contour, opacity: 0.3, overlay_size: 64, ..Display::default() };
        assert_eq!(
            map_options(&aggregate, &display, false),
            " --layers 'up,*.attn2' --heads 0-3,7 --style contour --opacity 0.3 --overlay-size 64"
        );
        let daam = Aggregate { steps: Some("0..0.5".parse().unwrap()), ..Aggregate::named("daam").unwrap() };
        assert_eq!(map_options(&daam, &Display::default(), false), " --aggregate daam --steps-window 0..0.5");
    }

    #[test]
    fn what_a_run_of_concepts_shows_unasked_is_another_thing() {
        let plain = |aggregate: &Aggregate| map_options(aggregate, &Display::default(), true);
        let concept = Aggregate::named(DEFAULT_OF_CONCEPTS).unwrap();
        assert_eq!(plain(&concept), "");
        assert_eq!(plain(&Aggregate::default()), " --aggregate compete");
        let layers = || SiteFilter::Layers(vec!["*.1.attn".parse().unwrap()]);
        assert_eq!(plain(&concept.clone().narrowed(layers())), " --aggregate concept --layers '*.1.attn'");
        let alone = Aggregate { sites: vec![layers()], ..concept };
        assert_eq!(plain(&alone), " --layers '*.1.attn'");
        let text = Aggregate { queries: QuerySource::Text, ..Aggregate::default() };
        assert_eq!(map_options(&text, &Display::default(), false), " --queries text");
        let clip = Aggregate { encoder: Encoder::Clip, ..Aggregate::default() };
        assert_eq!(map_options(&clip, &Display::default(), false), " --encoder clip");
        assert_eq!(plain(&clip), " --aggregate compete --encoder clip");
    }
}
