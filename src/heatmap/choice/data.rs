//! An aggregate as data, for `run.json` and other files.

use super::{Aggregate, Encoder, QuerySource, SiteFilter};
use crate::trace::Half;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The rule by its name, and what is chosen of it.
#[derive(Serialize, Deserialize)]
struct Data {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resolution: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heads: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    half: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queries: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoder: Option<String>,
}

/// How the half of the negative prompt is called.
const UNCONDITIONAL: &str = "unconditional";

/// How the text's own queries are called.
const TEXT: &str = "text";

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

impl Serialize for Aggregate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut data = Data {
            name: self.name.clone(),
            layers: Vec::new(),
            resolution: Vec::new(),
            heads: self.heads.as_ref().map(ToString::to_string),
            steps: self.steps.as_ref().map(ToString::to_string),
            half: (self.half == Half::Unconditional).then(|| UNCONDITIONAL.to_owned()),
            queries: (self.queries == QuerySource::Text).then(|| TEXT.to_owned()),
            encoder: (self.encoder != Encoder::Both).then(|| self.encoder.name().to_owned()),
        };
        for filter in &self.sites {
            match filter {
                SiteFilter::Layers(layers) => data.layers.extend(texts(layers)),
                SiteFilter::Resolutions(sizes) => data.resolution.extend(texts(sizes)),
                _ => {} // what the name implies
            }
        }
        data.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Aggregate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn parsed<T: std::str::FromStr<Err = crate::Error>, E: Error>(list: &[String]) -> Result<Vec<T>, E> {
            list.iter().map(|text| text.parse().map_err(E::custom)).collect()
        }
        let data = Data::deserialize(deserializer)?;
        let mut how = Self::named(&data.name).map_err(D::Error::custom)?;
        if !data.layers.is_empty() {
            how = how.narrowed(SiteFilter::Layers(parsed::<_, D::Error>(&data.layers)?));
        }
        if !data.resolution.is_empty() {
            how = how.narrowed(SiteFilter::Resolutions(parsed::<_, D::Error>(&data.resolution)?));
        }
        how.heads = data.heads.map(|text| text.parse().map_err(D::Error::custom)).transpose()?;
        how.steps = data.steps.map(|text| text.parse().map_err(D::Error::custom)).transpose()?;
        how.half = match data.half.as_deref() {
            None | Some("conditional") => Half::Conditional,
            Some(UNCONDITIONAL) => Half::Unconditional,
            Some(other) => return Err(D::Error::custom(format!("there is no half {other:?}"))),
        };
        how.queries = match data.queries.as_deref() {
            None | Some("image") => QuerySource::Image,
            Some(TEXT) => QuerySource::Text,
            Some(other) => return Err(D::Error::custom(format!("there are no queries {other:?}"))),
        };
        let encoder = data.encoder.map(|text| text.parse().map_err(D::Error::custom)).transpose()?;
        how.encoder = encoder.unwrap_or_default();
        Ok(how)
    }
}

/// How the maps that a file is about were made: in words for people, and as data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedAggregate {
    /// In words, e.g. `daam, heads 0-3`.
    #[serde(default)]
    pub aggregate: String,
    /// As data. Absent in files of versions that said it in words alone, and where another program
    /// made the maps in a way of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maps: Option<Aggregate>,
}

impl From<&Aggregate> for SavedAggregate {
    fn from(how: &Aggregate) -> Self {
        Self { aggregate: how.to_string(), maps: Some(how.clone()) }
    }
}

impl SavedAggregate {
    /// The aggregate.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for words of a version that knows other
    /// aggregates.
    pub fn how(&self) -> crate::Result<Aggregate> {
        self.maps.clone().map_or_else(|| self.aggregate.parse(), Ok)
    }

    /// Whether both are of maps that were made alike, as far as both say it: by their data, or else
    /// by their words.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.maps, &other.maps) {
            (Some(own), Some(other)) => own == other,
            _ => self.aggregate == other.aggregate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_words_alone_and_of_data_are_compared() {
        let heads: Aggregate = "all, heads 0-1".parse().unwrap();
        let saved = SavedAggregate::from(&heads);
        let old: SavedAggregate = serde_json::from_str(r#"{"aggregate": "all, heads 0-1"}"#).unwrap();
        assert!(old.maps.is_none() && old.how().unwrap() == heads && saved.how().unwrap() == heads);
        assert!(old.is_same(&saved) && saved.is_same(&old) && saved.is_same(&saved));
        // Data are what counts where there are any: words may be put otherwise.
        let reworded = SavedAggregate { aggregate: "all, of two heads".into(), ..saved.clone() };
        assert!(reworded.is_same(&saved) && !reworded.is_same(&old) && reworded.how().unwrap() == heads);
        let other = SavedAggregate { maps: Some("all".parse().unwrap()), ..saved.clone() };
        assert!(!other.is_same(&saved));
        let json = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<SavedAggregate>(&json).unwrap(), saved, "{json}");
    }

    #[test]
    fn an_aggregate_is_written_as_data_and_read_back() {
        for written in [
            "compete",
            "daam, heads 1",
            "last-up, steps 0.2..0.8",
            "all, layers up,down_blocks.0.*, resolution 16,24x16, heads 0-3,7, unconditional half, queries of the text",
            "daam, encoder clip",
        ] {
            let how: Aggregate = written.parse().unwrap();
            let json = serde_json::to_string(&how).unwrap();
            assert_eq!(serde_json::from_str::<Aggregate>(&json).unwrap(), how, "{json}");
        }
        let json = serde_json::to_string(&"all, layers up, heads 0-3".parse::<Aggregate>().unwrap()).unwrap();
        assert_eq!(json, r#"{"name":"all","layers":["up"],"heads":"0-3"}"#);
        let json = serde_json::to_string(&"all, encoder t5".parse::<Aggregate>().unwrap()).unwrap();
        assert_eq!(json, r#"{"name":"all","encoder":"t5"}"#);
        let json = r#"{"name":"all","encoder":"both"}"#;
        assert_eq!(serde_json::from_str::<Aggregate>(json).unwrap(), Aggregate::named("all").unwrap());
        assert!(serde_json::from_str::<Aggregate>(r#"{"name":"all","encoder":"bert"}"#).is_err());
        for wrong in [r#"{"name":"best"}"#, r#"{"name":"all","heads":"x"}"#, r#"{"name":"all","half":"third"}"#] {
            assert!(serde_json::from_str::<Aggregate>(wrong).is_err(), "{wrong}");
        }
    }
}
