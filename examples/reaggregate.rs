//! Makes the maps of a run again in different ways, without the checkpoint, and prints where each
//! puts every word's peak.
//!
//! ```sh
//! cargo run --release -- generate "a red apple to the left of a blue heart on the beach" --out outputs/apple
//! cargo run --release --example reaggregate -- outputs/apple
//! ```

use attnmap::heatmap::{Aggregate, THRESHOLD, aggregate};
use attnmap::run::Run;
use std::path::Path;

fn main() -> attnmap::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "outputs/apple".into());
    let trace = Run::open(Path::new(&folder))?.trace()?;
    let words = &trace.about.prompt.words;

    let halfway = Some("0..0.5".parse()?);
    let choices = [
        Aggregate::named("daam")?,
        Aggregate::named("finest")?,
        Aggregate { steps: halfway, ..Aggregate::named("up")? },
        Aggregate { heads: Some("0".parse()?), ..Aggregate::named("last-up")? },
    ];
    for choice in choices {
        let maps = aggregate(&trace, &choice, words)?;
        println!(
            "{choice}: {} sites, {} steps, grid {}x{}",
            maps.sites.len(),
            maps.steps,
            maps.grid.width,
            maps.grid.height
        );
        for (index, word) in words.iter().enumerate() {
            let layout = maps.layout(index, THRESHOLD);
            let peak = layout.peak.map_or("nowhere".into(), |peak| {
                format!("{:>5.1} % at x {:.2}, y {:.2}", 100.0 * peak.value, peak.x, peak.y)
            });
            println!("  {:<16} share {:>5.1} %   peak {peak}", word.label(), 100.0 * layout.share);
        }
    }
    Ok(())
}
