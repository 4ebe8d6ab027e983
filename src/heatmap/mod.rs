//! From traces to maps: aggregation, resampling, words, layout statistics; pure functions on f32 grids.
