//! How the hub is reached: what the caller says, and else the environment.

use super::environment;
use std::fmt;
use std::path::PathBuf;

/// How to reach the hub. What is `None` comes from the environment, as in Python's huggingface_hub.
#[derive(Clone, Default)]
pub struct HubOptions {
    /// The server; else `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// The access token; else `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the file that `hf
    /// auth login` wrote.
    pub token: Option<String>,
    /// The cache; else `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, else
    /// `huggingface/hub` in `XDG_CACHE_HOME` or `~/.cache`. Of these `~` and `$NAME` are expanded,
    /// of this field they are not.
    pub cache: Option<PathBuf>,
    /// Whether to use only what the cache has; else `HF_HUB_OFFLINE` says.
    pub offline: Option<bool>,
}

impl HubOptions {
    /// The folder of the cache.
    pub fn cache_folder(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(environment::cache_folder)
    }

    /// Why the network is not to be used, if so, and the way out.
    pub(super) fn offline(&self) -> Option<(String, &'static str)> {
        const BUILT_WITHOUT: &str = "build attnmap with its feature `hub`, or give a folder";
        match self.offline {
            _ if cfg!(not(feature = "hub")) => Some(("this attnmap was built without a network".into(), BUILT_WITHOUT)),
            Some(true) => Some(("no network is used here".into(), "`attnmap generate PROMPT --model` fetches it")),
            Some(false) => None,
            None => environment::offline()
                .map(|name| (format!("{name} is set"), "unset it once to download, or give a folder")),
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        // A token must not end in a log.
        let token = self.token.as_ref().map(|_| "...");
        let Self { endpoint, cache, offline, .. } = self;
        let mut all = formatter.debug_struct("HubOptions");
        all.field("endpoint", endpoint).field("token", &token).field("cache", cache).field("offline", offline).finish()
    }
}
