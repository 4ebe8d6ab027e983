//! The options of a command line that makes the same maps and pictures again.

use super::quoted;
use crate::heatmap::{Aggregate, DEFAULT, SiteFilter};
use crate::render::Display;
use serde_json::Value;
use std::fmt::Display as Show;

/// How maps are made and drawn, as options with a space before each; empty where all of it is what
/// a command does unasked.
pub fn map_options(aggregate: &Aggregate, display: &Display) -> String {
    let mut options = Vec::new();
    let narrowed = |filter: &SiteFilter| matches!(filter, SiteFilter::Layers(_) | SiteFilter::Resolutions(_));
    let unasked = if aggregate.sites.iter().any(narrowed) { "all" } else { DEFAULT };
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
        assert_eq!(map_options(&Aggregate::default(), &Display::default()), "");
        let layers = SiteFilter::Layers(vec!["up".parse().unwrap(), "*.attn2".parse().unwrap()]);
        let mut aggregate = Aggregate::named("all").unwrap().narrowed(layers);
        aggregate.heads = Some("0-3,7".parse().unwrap());
        let display = Display { style: Style::Contour, opacity: 0.3, overlay_size: 64, ..Display::default() };
        assert_eq!(
            map_options(&aggregate, &display),
            " --layers 'up,*.attn2' --heads 0-3,7 --style contour --opacity 0.3 --overlay-size 64"
        );
        let daam = Aggregate { steps: Some("0..0.5".parse().unwrap()), ..Aggregate::named("daam").unwrap() };
        assert_eq!(map_options(&daam, &Display::default()), " --aggregate daam --steps-window 0..0.5");
    }
}
