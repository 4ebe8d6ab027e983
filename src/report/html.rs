//! HTML around the data: escaping, the Content-Security-Policy, and the order of things in the
//! file.

use super::assets;
use super::data::{ImageData, ReportData};
use super::pack::{self, pack};
use super::queries;
use crate::facts::lexicon::{self, Role};
use crate::heatmap::DEFAULT;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use html_escape::{encode_double_quoted_attribute, encode_text};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Pictures come from the page itself.
pub(super) const INLINE: &str = "data: blob:";

/// The page of a run, complete: an HTML file to be written as `report.html`.
pub fn page(data: &ReportData) -> String {
    let pixels = data.image.width * data.image.height;
    let packed = pack(data, pack::budget(pixels));
    let inside = data.queries.as_ref().map(|kept| queries::pack(kept, data, queries::budget(pixels)));
    let sites: Vec<Value> = data
        .sites
        .iter()
        .zip(&packed.sites)
        .map(|(site, blocks)| {
            json!({
                "path": site.path, "stage": site.stage, "heads": site.heads, "height": site.height,
                "width": site.width, "used": site.used, "mean": blocks.mean, "byHead": blocks.by_head,
                "byStep": blocks.by_step,
            })
        })
        .collect();
    let estimates: Vec<Value> =
        data.estimates.iter().map(|e| json!({"step": e.step, "src": data_url(&e.image)})).collect();
    let figure = |(caption, image): &(String, ImageData)| json!({"caption": caption, "src": data_url(image)});
    let why = data.why.iter().map(|answer| {
        let figures: Vec<Value> = answer.figures.iter().map(figure).collect();
        json!({
            "word": answer.word, "sentence": answer.sentence, "rows": answer.rows, "notes": answer.notes,
            "figures": figures,
        })
    });
    let why: Vec<Value> = why.collect();
    let figures: Vec<Value> = data.figures.iter().map(figure).collect();
    let start = data.start.as_ref().map(|start| {
        json!({
            "name": start.name, "strength": start.strength, "src": data_url(&start.picture),
            "mask": start.mask.as_ref().map(data_url),
        })
    });
    let words: Vec<Value> = data
        .words
        .iter()
        .map(|word| {
            json!({
                "text": word.text, "occurrence": word.occurrence, "tokens": word.tokens, "weight": word.weight,
                "chunk": word.chunk, "little": lexicon::role(&word.text) == Role::Filler,
            })
        })
        .collect();
    let causal = packed.causal.as_ref().map(|block| {
        let words: Vec<usize> = data.causal.iter().map(|causal| causal.word).collect();
        json!({"words": words, "block": block})
    });
    let without: Vec<Value> = data
        .without
        .iter()
        .map(|other| {
            let src = data_url(&other.image);
            json!({"word": other.word, "src": src, "area": other.area, "middle": other.middle})
        })
        .collect();
    let run = json!({
        "name": data.name, "prompt": data.prompt, "segments": data.segments, "cutOff": data.cut_off,
        "tokens": data.tokens, "padding": data.padding, "joint": data.joint,
        "words": words, "probes": data.probes,
        "image": {"width": data.image.width, "height": data.image.height}, "estimates": estimates, "start": start,
        "display": data.display, "threshold": data.threshold, "causal": causal, "without": without,
        "sweep": data.sweep.as_ref().map(|sweep| json!({"href": sweep.href, "seeds": sweep.seeds})),
        "latent": {"height": data.latent.0, "width": data.latent.1}, "timesteps": data.timesteps, "noise": data.noise,
        "stepGroups": packed.step_groups, "sites": sites,
        "official": data.official.as_ref().zip(packed.official.as_ref()).map(|(o, block)| json!({
            "name": o.name, "is_default": o.name == DEFAULT, "description": o.description, "shares": o.shares,
            "block": block, "colour": o.colour, "compete": o.compete,
            "mean": o.mean, "encoder": o.encoder, "behind": o.behind, "heads": o.heads, "steps": o.steps,
        })),
        "negativeWords": data.negative_words.as_ref().zip(packed.negative.as_ref()).map(|(n, block)| json!({
            "segments": n.segments, "words": n.words, "shares": n.shares, "behind": n.behind, "block": block,
        })),
        "matrices": data.matrices.iter().zip(&packed.matrices).map(|(m, block)| json!({
            "name": m.name, "tokens": m.tokens, "layers": m.layers, "heads": m.heads, "block": block,
        })).collect::<Vec<_>>(),
        "ties": data.self_attention.iter().zip(&packed.self_attention)
            .filter_map(|(t, block)| block.as_ref().map(|block| json!({
            "height": t.height, "width": t.width, "sites": t.sites, "block": block,
        }))).collect::<Vec<_>>(),
        "queries": inside.as_ref().map(|inside| &inside.about),
        "layout": data.layout, "remarks": data.remarks, "verdicts": data.verdicts, "checks": data.checks,
        "figures": figures, "why": why, "attributions": data.attributions, "components": data.components,
        "explain": data.explain_command, "settings": data.settings, "cell": data.cell, "command": data.command,
        "notes": packed.notes,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let title = format!("{} · attnmap", shorten(&data.prompt, 80));
    let image = data_url(&data.image);
    // Without a script the image, the prompt and the sheet of the words are all there is.
    let sheet = data.sheet.as_ref().map_or_else(String::new, |sheet| {
        let about = "Each word of the prompt with its map over the image";
        format!("<img alt=\"{about}\" src=\"{}\">", encode_double_quoted_attribute(&data_url(sheet)))
    });
    let still = format!(
        "<img id=\"source\" class=\"still\" alt=\"{prompt}\" src=\"{}\">\n\
         <noscript><div class=\"still\"><p>{prompt}</p>{sheet}<p>More than this is drawn by a script, which this \
         browser \
         does not run. Attention shows where the model looked, not why.</p></div></noscript>\n",
        encode_double_quoted_attribute(&image),
        prompt = encode_double_quoted_attribute(&data.prompt),
    );
    let run = embed_json(&run);
    let mut parts = vec![("run", "application/json", run.as_str()), ("maps", "text/plain", &packed.base64)];
    parts.extend(inside.as_ref().map(|inside| ("queries", "text/plain", inside.base64.as_str())));
    document(&Document {
        title: &title,
        style: &assets::report_style(),
        script: &assets::report_script(),
        body: &still,
        images: INLINE,
        data: &parts,
    })
}

/// The page of a gallery around its data (already safe inside `<script>`); its pictures are files
/// beside it.
pub(crate) fn gallery_document(title: &str, data: &str) -> String {
    document(&Document {
        title,
        style: &assets::gallery_style(),
        script: &assets::gallery_script(),
        body: "<noscript><p class=\"still\">This page is drawn by a script, which this browser does not run; the \
        runs lie in the folder cells.</p></noscript>\n",
        data: &[("gallery", "application/json", data)],
        images: "'self' file: data: blob:",
    })
}

/// The page that a server sends, around `about` (JSON, already safe inside `<script>`). It may ask
/// that server for more, and show pages of it within.
#[cfg(feature = "serve")]
pub(crate) fn served_document(title: &str, style: &str, script: &str, about: &str) -> String {
    document(&Document {
        title,
        style,
        script,
        body: "<noscript><p class=\"still\">This page is drawn by a script, which this browser does not \
        run.</p></noscript>\n",
        data: &[("about", "application/json", about)],
        images: "'self' data: blob:; connect-src 'self'; frame-src 'self'",
    })
}

/// The page that lists runs; `data` is safe inside a script element. Its pictures are files in the
/// folders beside it.
pub(crate) fn runs_document(title: &str, data: &str) -> String {
    document(&Document {
        title,
        style: &assets::runs_style(),
        script: &assets::runs_script(),
        body: "<noscript><p class=\"still\">This page is drawn by a script, which this browser does not run; the \
        runs lie in the folders beside it.</p></noscript>\n",
        data: &[("runs", "application/json", data)],
        images: "'self' file: data: blob:",
    })
}

/// The page of a sweep around its markup, which is already escaped; its pictures are files beside
/// it.
pub(crate) fn sweep_document(title: &str, body: &str) -> String {
    document(&Document {
        title,
        style: &assets::sweep_style(),
        script: "",
        body,
        data: &[],
        images: "'self' file: data:",
    })
}

/// The parts of a page.
pub(super) struct Document<'a> {
    /// Plain text.
    pub title: &'a str,
    /// CSS.
    pub style: &'a str,
    /// JavaScript; empty for a page that needs none.
    pub script: &'a str,
    /// Markup that is already escaped.
    pub body: &'a str,
    /// Where pictures may come from.
    pub images: &'a str,
    /// `(id, type, content)` of script elements that hold data; the content is already safe inside
    /// `<script>`.
    pub data: &'a [(&'a str, &'a str, &'a str)],
}

/// A page in which only the given style and script may run and nothing may be fetched. The
/// Content-Security-Policy names both by their SHA-256, and says where pictures may come from.
pub(super) fn document(parts: &Document<'_>) -> String {
    let digest = |text: &str| BASE64.encode(Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src {}; base-uri 'none'; \
         form-action 'none'",
        digest(parts.script),
        digest(parts.style),
        parts.images,
    );
    let mut html = String::with_capacity(parts.data.iter().map(|d| d.2.len()).sum::<usize>() + 200_000);
    html.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.push_str(&crate::files::page_mark());
    html.push_str("<meta http-equiv=\"Content-Security-Policy\" content=\"");
    html.push_str(&policy);
    html.push_str("\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    html.push_str(
        "<meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n",
    );
    html.push_str("<link rel=\"icon\" href=\"data:,\">\n<title>");
    html.push_str(&encode_text(parts.title));
    html.push_str("</title>\n<style>");
    html.push_str(parts.style);
    html.push_str("</style>\n</head>\n<body>\n");
    html.push_str(parts.body);
    for (id, kind, content) in parts.data {
        html.push_str("<script id=\"");
        html.push_str(id);
        html.push_str("\" type=\"");
        html.push_str(kind);
        html.push_str("\">");
        html.push_str(content);
        html.push_str("</script>\n");
    }
    if !parts.script.is_empty() {
        html.push_str("<script>");
        html.push_str(parts.script);
        html.push_str("</script>\n");
    }
    html.push_str("</body>\n</html>\n");
    html
}

/// JSON that is safe inside a `<script>` element. `<`, `>` and `&` and the two line separators are
/// written as escapes. So no text in it can end the element or open a comment.
pub fn embed_json(value: &Value) -> String {
    let text = value.to_string();
    let mut safe = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        match c {
            '<' => safe.push_str("\\u003c"),
            '>' => safe.push_str("\\u003e"),
            '&' => safe.push_str("\\u0026"),
            '\u{2028}' => safe.push_str("\\u2028"),
            '\u{2029}' => safe.push_str("\\u2029"),
            c => safe.push(c),
        }
    }
    safe
}

/// A `data:` address of a picture.
pub(crate) fn data_url(image: &ImageData) -> String {
    format!("data:{};base64,{}", image.mime, BASE64.encode(&image.bytes))
}

/// At most `limit` characters of `text` on one line.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= limit { line } else { line.chars().take(limit - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_json_cannot_leave_its_script_element() {
        let value = json!({"a": "</script><!-- & <script>", "b": "\u{2028}\u{2029}"});
        let text = embed_json(&value);
        assert!(!text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn the_policy_names_the_very_script_and_style() {
        let html =
            document(&Document { title: "<b>&", style: "a{}", script: "1", body: "", images: INLINE, data: &[] });
        let hash = BASE64.encode(Sha256::digest(b"1"));
        assert!(html.contains(&format!("script-src 'sha256-{hash}'")));
        assert!(html.contains("<title>&lt;b&gt;&amp;</title>"));
        assert!(!html.contains("unsafe"));
    }

    #[test]
    fn long_titles_are_shortened_by_characters() {
        assert_eq!(shorten("नमस्ते दुनिया", 5).chars().count(), 5);
        assert_eq!(shorten("a\nb", 9), "a b");
    }
}
