//! Names of files in JSON.

use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};

/// Writes `path` as it is shown: a name need not be text, and JSON holds nothing else.
pub(crate) fn as_shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Writes `path` as [`as_shown`] does, where there is one.
pub(crate) fn any_as_shown<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.display().to_string()).serialize(serializer)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[derive(Serialize)]
    struct Named {
        #[serde(serialize_with = "as_shown")]
        one: PathBuf,
        #[serde(serialize_with = "any_as_shown")]
        other: Option<PathBuf>,
    }

    #[test]
    fn a_name_that_is_no_text_has_a_form_too() {
        let odd = PathBuf::from(OsStr::from_bytes(b"a\xff.png"));
        let json = |one: PathBuf, other| serde_json::to_string(&Named { one, other }).unwrap();
        assert_eq!(json(odd.clone(), Some(odd)), "{\"one\":\"a\u{fffd}.png\",\"other\":\"a\u{fffd}.png\"}");
        assert_eq!(json("a \"b\".png".into(), None), r#"{"one":"a \"b\".png","other":null}"#);
    }
}
