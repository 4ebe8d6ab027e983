//! A made-up run: soft discs for the objects, maps that follow them, everything by formula, so that
//! it never changes.

use attnmap::render::Display;
use attnmap::report::{
    ImageData, LayoutRow, Negative, PageToken, PageTokenKind, PageWord, PromptMatrix, ReportData, RunMaps, Segment,
    SiteData,
};
use attnmap::trace::Stage;

pub struct Plan {
    pub prompt: String,
    /// Sites as (stage, grid, used).
    pub sites: Vec<(Stage, usize, bool)>,
    pub heads: usize,
    pub steps: usize,
    /// Side of the square latent grid; the image has eight times as many pixels.
    pub latent: usize,
}

impl Default for Plan {
    fn default() -> Self {
        use Stage::{Down, Mid, Up};
        Self {
            prompt: "a red apple to the left of a green frog on the beach".into(),
            sites: vec![
                (Down, 16, false),
                (Down, 8, false),
                (Down, 4, false),
                (Mid, 4, false),
                (Up, 4, false),
                (Up, 4, false),
                (Up, 8, false),
                (Up, 8, false),
                (Up, 16, true),
                (Up, 16, true),
            ],
            heads: 4,
            steps: 25,
            latent: 16,
        }
    }
}

impl Plan {
    /// The shapes of SD 1.5 at 512x512 in 50 steps.
    pub fn sd15() -> Self {
        use Stage::{Down, Mid, Up};
        let grids = [(Down, 64), (Down, 64), (Down, 32), (Down, 32), (Down, 16), (Down, 16), (Mid, 8), (Up, 16)];
        let more = [(Up, 16), (Up, 16), (Up, 32), (Up, 32), (Up, 32), (Up, 64), (Up, 64), (Up, 64)];
        let sites = grids.into_iter().chain(more).map(|(stage, grid)| (stage, grid, stage != Mid)).collect();
        Self { sites, heads: 8, steps: 50, latent: 64, ..Self::default() }
    }
}

/// Where a word's object stands: centre and radius as fractions of the image; `None` for words that
/// spread.
pub fn place(word: &str) -> Option<(f32, f32, f32)> {
    Some(match word {
        "red" | "apple" => (0.28, 0.60, 0.17),
        "green" | "frog" => (0.72, 0.62, 0.19),
        "beach" => (0.5, 0.95, 0.45),
        "left" => (0.2, 0.45, 0.35),
        _ => return None,
    })
}

fn noise(seed: usize) -> f32 {
    let mut x = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    (x >> 40) as f32 / (1u64 << 24) as f32
}

pub fn sample(plan: &Plan) -> ReportData {
    let mut segments = Vec::new();
    let mut words: Vec<PageWord> = Vec::new();
    let mut tokens = vec![PageToken { text: "<|startoftext|>".into(), kind: PageTokenKind::Start }];
    for piece in plan.prompt.split_inclusive(' ') {
        let text = piece.trim_end();
        if !text.is_empty() {
            let occurrence = 1 + words.iter().filter(|w| w.text == text).count();
            segments.push(Segment { text: text.into(), word: Some(words.len()) });
            words.push(PageWord { text: text.into(), occurrence, tokens: vec![tokens.len()], weight: 1.0, chunk: 0 });
            tokens.push(PageToken { text: text.into(), kind: PageTokenKind::Text });
        }
        if piece.len() > text.len() {
            segments.push(Segment { text: " ".into(), word: None });
        }
    }
    tokens.push(PageToken { text: "<|endoftext|>".into(), kind: PageTokenKind::End });
    let channels = tokens.len() + 1;

    // Probabilities of one cell: start token most, words by closeness to their object, the rest
    // shared.
    let cell = |channel: usize, y: f32, x: f32, sharp: f32, seed: usize| -> f32 {
        let wobble = 0.7 + 0.6 * noise(seed);
        if channel == 0 {
            return 0.6 * (0.9 + 0.1 * wobble);
        }
        if channel + 2 == channels {
            return 0.12 * wobble;
        }
        if channel + 1 == channels {
            return 0.05 * wobble;
        }
        match place(&words[channel - 1].text) {
            Some((cx, cy, r)) => {
                let d = ((x - cx).powi(2) + (y - cy).powi(2)) / (r * r) * sharp;
                let strength = if ["apple", "frog"].contains(&words[channel - 1].text.as_str()) { 0.24 } else { 0.12 };
                0.004 * wobble + strength * (-d).exp() * (0.8 + 0.2 * wobble)
            }
            None => 0.008 * wobble,
        }
    };
    let maps = |grid: usize, sharp: f32, salt: usize| -> Vec<f32> {
        let mut values = vec![0f32; channels * grid * grid];
        for y in 0..grid {
            for x in 0..grid {
                let at = |i: usize| (i as f32 + 0.5) / grid as f32;
                let raw: Vec<f32> = (0..channels)
                    .map(|c| cell(c, at(y), at(x), sharp, ((salt * 97 + c) * 131 + y) * 137 + x))
                    .collect();
                let sum: f32 = raw.iter().sum();
                for (c, value) in raw.iter().enumerate() {
                    values[(c * grid + y) * grid + x] = value / sum;
                }
            }
        }
        values
    };
    let sites: Vec<SiteData> = plan
        .sites
        .iter()
        .enumerate()
        .map(|(index, &(stage, grid, used))| {
            let name = if stage == Stage::Mid {
                "mid_block".into()
            } else {
                format!("{}_blocks.{index}", if stage == Stage::Up { "up" } else { "down" })
            };
            let by_head: Vec<f32> = (0..plan.heads)
                .flat_map(|head| maps(grid, [1.6, 0.5, 3.0, 0.15, 1.0, 2.2, 0.8, 0.3][head % 8], index * 100 + head))
                .collect();
            let by_step: Vec<half::f16> = (0..plan.steps)
                .flat_map(|step| maps(grid, 0.1 + 2.0 * step as f32 / plan.steps as f32, 5000 + index * 100 + step))
                .map(half::f16::from_f32)
                .collect();
            SiteData {
                path: format!("{name}.attentions.0.transformer_blocks.0.attn2"),
                stage,
                heads: plan.heads,
                height: grid,
                width: grid,
                used,
                by_head: by_head.iter().map(|v| v * plan.steps as f32).collect::<Vec<_>>().into(),
                by_step: Some(by_step.into()),
            }
        })
        .collect();

    let side = plan.latent;
    let own: Vec<&SiteData> = sites.iter().filter(|s| s.used && s.height == side).collect();
    let mut official = vec![0f32; tokens.len() * side * side];
    for site in &own {
        for head in site.by_head.chunks_exact(channels * side * side) {
            for (sum, value) in official.iter_mut().zip(head) {
                *sum += value / (own.len() * plan.heads * plan.steps) as f32;
            }
        }
    }
    let mut shares: Vec<f32> =
        official.chunks_exact(side * side).map(|map| map.iter().sum::<f32>() / map.len() as f32).collect();
    shares.push(1.0 - shares.iter().sum::<f32>());
    let size = side * 8;
    let layout = (0..words.len())
        .map(|word| {
            let map = &official[(word + 1) * side * side..(word + 2) * side * side];
            let mean = map.iter().sum::<f32>() / map.len() as f32;
            let peak = map.iter().fold(0f32, |a, &b| a.max(b));
            let facts = vec![
                ("share".into(), format!("{:.1} %", 100.0 * mean)),
                ("peak".into(), format!("{:.1} %", 100.0 * peak)),
            ];
            let centre = place(&words[word].text).map(|(x, y, _)| [x, y]);
            LayoutRow { word, share: mean, centre, area: 0.1, entropy: 0.8, not_drawn: false, facts }
        })
        .collect();
    ReportData {
        name: "a-red-apple-42".into(),
        prompt: plan.prompt.clone(),
        segments,
        cut_off: vec![],
        padding: 77 - tokens.len(),
        joint: false,
        image: picture(size),
        display: Display::default(),
        threshold: 0.4,
        sheet: Some(picture(size)),
        estimates: vec![],
        start: None,
        latent: (side, side),
        timesteps: (0..plan.steps).map(|s| 999.0 - 999.0 * s as f64 / plan.steps as f64).collect(),
        noise: None,
        official: Some(RunMaps {
            name: "attnmap".into(),
            description: format!("up blocks, {side}×{side}, all heads, all steps"),
            height: side,
            width: side,
            words: official[side * side..][..words.len() * side * side].to_vec(),
            shares,
            colour: attnmap::heatmap::Aggregate::default().colour(),
            compete: None,
            mean: false,
            encoder: "both",
            behind: None,
            heads: None,
            steps: None,
        }),
        negative_words: None,
        matrices: vec![matrix("text", &tokens, 3, 6)],
        layout,
        remarks: vec!["stated: apple left of frog: the maps agree (offset -0.40)".into()],
        verdicts: vec![],
        causal: vec![],
        without: vec![],
        sweep: None,
        checks: vec![],
        attributions: Vec::new(),
        components: None,
        figures: vec![],
        why: vec![],
        explain_command: "attnmap explain outputs/a-red-apple-42".into(),
        cell: None,
        settings: [
            ("checkpoint", "embedded default"),
            ("digest", "sha256:8d5c41e07f3b"),
            ("seed", "42"),
            ("steps", "25"),
            ("size", "128×128"),
            ("guidance scale", "4"),
            ("scheduler", "ddim"),
        ]
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .into(),
        command: format!("attnmap generate {:?} --seed 42 --steps 25 --guidance-scale 4", plan.prompt),
        tokens,
        words,
        probes: vec![],
        self_attention: vec![],
        queries: None,
        sites,
    }
}

/// The same run with the words of a negative prompt recorded, one token per word.
pub fn with_negative(mut data: ReportData, words: &[&str]) -> ReportData {
    let (before, steps) = (data.channels(), data.timesteps.len());
    let spot = |word: usize, group: usize, height: usize, width: usize| -> Vec<f32> {
        let at = |i: usize| ((i % width) as f32 + 0.5) / width as f32;
        let (centre, strength) = ((word as f32 + 0.5) / words.len() as f32, 0.01 + 0.04 * noise(word * 31 + group));
        let value = |i: usize| 0.002 + strength * (-30.0 * (at(i) - centre).powi(2)).exp() * (0.8 + 0.2 * noise(i));
        (0..height * width).map(value).collect()
    };
    for site in &mut data.sites {
        let (height, width) = (site.height, site.width);
        let beside = |own: &[f32], groups: usize, unit: f32| -> Vec<f32> {
            let groups = own.chunks_exact(before * height * width).take(groups).enumerate();
            let joined = groups.flat_map(|(group, own)| {
                let more = (0..words.len()).flat_map(move |word| spot(word, group, height, width));
                own.iter().copied().chain(more.map(move |value| unit * value))
            });
            joined.collect()
        };
        site.by_head = beside(&site.by_head, site.heads, steps as f32).into();
        site.by_step = site.by_step.as_ref().map(|own| {
            let own: Vec<f32> = own.iter().map(|value| value.to_f32()).collect();
            beside(&own, steps, 1.0).into_iter().map(half::f16::from_f32).collect::<Vec<_>>().into()
        });
    }
    let (height, width) = data.latent;
    let tokens: Vec<f32> = (0..words.len()).flat_map(|word| spot(word, 0, height, width)).collect();
    let shares = tokens.chunks_exact(height * width).map(|map| map.iter().sum::<f32>() / map.len() as f32);
    let mut segments = Vec::new();
    for (index, word) in words.iter().enumerate() {
        segments.push(Segment { text: (*word).into(), word: Some(index) });
        segments.push(Segment { text: " ".into(), word: None });
    }
    let words = words.iter().enumerate();
    let words = words.map(|(at, word)| PageWord {
        text: (*word).into(),
        occurrence: 1,
        tokens: vec![at],
        weight: 1.0,
        chunk: 0,
    });
    data.negative_words = Some(Negative {
        segments,
        words: words.collect(),
        shares: shares.collect(),
        maps: tokens.clone(),
        behind: None,
    });
    data
}

/// An encoder's attention: most to the start token, the rest to what is near.
pub fn matrix(name: &str, infos: &[PageToken], layers: usize, heads: usize) -> PromptMatrix {
    let tokens = infos.len();
    let mut values = Vec::new();
    for plane in 0..layers * heads {
        for i in 0..tokens {
            let raw: Vec<f32> = (0..tokens)
                .map(|j| {
                    if j > i {
                        0.0
                    } else if j == 0 {
                        3.0
                    } else {
                        0.1 + noise(plane * 9973 + i * 101 + j) / (1 + i - j) as f32
                    }
                })
                .collect();
            let sum: f32 = raw.iter().sum();
            values.extend(raw.iter().map(|v| v / sum));
        }
    }
    PromptMatrix { name: name.into(), tokens: infos.to_vec(), layers, heads, values }
}

/// A red and a green disc on sand under a sky.
fn picture(size: usize) -> ImageData {
    let image = image::RgbImage::from_fn(size as u32, size as u32, |px, py| {
        let (x, y) = ((px as f32 + 0.5) / size as f32, (py as f32 + 0.5) / size as f32);
        let mut colour = if y < 0.55 {
            [150.0 + 60.0 * y, 195.0 + 40.0 * y, 230.0]
        } else {
            [232.0, 212.0 - 40.0 * (y - 0.55), 168.0]
        };
        for (word, base) in [("apple", [205.0, 52.0, 45.0]), ("frog", [96.0, 165.0, 70.0])] {
            let (cx, cy, r) = place(word).unwrap();
            let d = ((x - cx).powi(2) + (y - cy).powi(2)).sqrt() / r;
            let shade = 1.15 - 0.35 * ((x - cx) / r + (y - cy) / r);
            let t = ((1.0 - d) * 20.0).clamp(0.0, 1.0);
            for (c, b) in colour.iter_mut().zip(base) {
                *c = *c * (1.0 - t) + (b * shade).min(255.0) * t;
            }
        }
        image::Rgb(colour.map(|c: f32| c as u8))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    ImageData { mime: "image/png", bytes: bytes.into_inner(), width: size, height: size }
}
