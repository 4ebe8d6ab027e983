//! Concepts of a run (ConceptAttention): words that read the image beside the prompt. It is kept
//! how alike their attention outputs and those of the image's places are.

use super::{Buffer, Site};
use crate::{Error, Result};

/// What was recorded of the concepts of one image.
#[derive(Debug, Clone)]
pub struct ConceptMaps {
    /// Number of concepts.
    pub concepts: usize,
    /// One entry per site, in the order of [`Recording::sites`](super::Recording::sites): scores
    /// `[steps, concepts, height, width]`, dot products before any softmax. Nothing where the
    /// concepts do not go.
    pub sites: Vec<Option<Buffer<f32>>>,
}

/// The tensor's name in a trace file.
pub(super) fn tensor_name(site: &Site) -> String {
    format!("concept/{}", site.path)
}

/// The scores of one image while it is made, per site, step after step.
#[derive(Debug)]
pub(super) struct ConceptScores {
    concepts: usize,
    sites: Vec<Vec<f32>>,
}

impl ConceptScores {
    pub(super) fn new(concepts: usize, sites: usize) -> Self {
        Self { concepts, sites: vec![Vec::new(); sites] }
    }

    /// Adds a step's `[concepts, cells]` at a site; `steps` of them are expected in all.
    pub(super) fn add(&mut self, site: usize, values: &[f32], steps: usize) {
        let scores = &mut self.sites[site];
        if scores.is_empty() {
            scores.reserve_exact(steps * values.len());
        }
        scores.extend_from_slice(values);
    }

    /// The scores, once all of `steps` were seen at each site or none.
    pub(super) fn finish(self, sites: &[Site], steps: usize) -> Result<ConceptMaps> {
        let finished = |(site, scores): (&Site, Vec<f32>)| {
            let expected = steps * self.concepts * site.height * site.width;
            match scores.len() {
                0 => Ok(None),
                _ if scores.iter().any(|score| !score.is_finite()) => {
                    Err(Error::NotANumber { site: format!("the concepts of {}", site.path) })
                }
                len if len == expected => Ok(Some(Buffer::from(scores))),
                len => Err(Error::bug(format!("{}: {len} scores of concepts, not {expected}", site.path))),
            }
        };
        let sites = sites.iter().zip(self.sites).map(finished).collect::<Result<_>>()?;
        Ok(ConceptMaps { concepts: self.concepts, sites })
    }
}

/// What is wrong with the scores of a site.
pub(super) fn check_scores(scores: &[f32]) -> Result<(), String> {
    match scores.iter().find(|score| !score.is_finite()) {
        Some(score) => Err(format!("a concept's score is {score}")),
        None => Ok(()),
    }
}
