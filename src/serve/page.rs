//! The page itself: its style and script are of the report's parts and its own.

use crate::report::{embed_json, served_document, served_script, served_style};
use serde_json::Value;

/// The page, told `about` the checkpoint.
pub(super) fn page(about: &Value) -> String {
    let style = served_style(include_str!("assets/serve.css"));
    let script = served_script(&[
        include_str!("assets/talk.js"),
        include_str!("assets/state.js"),
        include_str!("assets/prompt.js"),
        include_str!("assets/pictures.js"),
        include_str!("assets/choices.js"),
        include_str!("assets/history.js"),
        include_str!("assets/tested.js"),
        include_str!("assets/serve.js"),
    ]);
    served_document("attnmap serve · attnmap", &style, &script, &embed_json(about))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_holds_nothing_that_ends_its_elements() {
        let page = super::page(&serde_json::json!({"checkpoint": "</script><b>"}));
        assert_eq!(page.matches("</script").count(), 2, "data and script");
        assert_eq!(page.matches("</style").count(), 1);
        assert!(page.contains("connect-src 'self'") && !page.contains("<b>"));
    }
}
