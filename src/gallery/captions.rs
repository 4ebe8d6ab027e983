//! Captioned pictures as data sets for training have them: a folder with a text file beside each
//! picture, or a list.

use super::quotes;
use crate::argument::IMAGE;
use crate::picture::{self, Metadata};
use crate::prompt::Syntax;
use crate::{Error, Result, files};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Endings of picture files, in lower case.
const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Endings of the text file beside a picture in lower case, the first that is there.
const CAPTIONS: [&str; 2] = ["txt", "caption"];

/// Lists that lie in the folder itself, as the hub's image folders have them.
const LISTS: [&str; 2] = ["metadata.jsonl", "metadata.csv"];

/// Names of a list's column of pictures, and of captions.
const COLUMNS: [[&str; 4]; 2] = [["file_name", "image", "picture", "file"], ["text", "caption", "prompt", "tags"]];

/// Bytes of a caption file beyond which it is none.
const LONGEST: usize = 1 << 16;

/// Pictures of one call, at most.
const MOST: usize = 1_000_000;

/// A picture with what it is said to show.
#[derive(Debug, Clone, PartialEq)]
pub struct Captioned {
    /// The picture's file.
    pub picture: PathBuf,
    /// The caption, or in a line why there is none.
    pub caption: Result<String, String>,
    /// How the caption is read, where the picture's own metadata says it.
    pub syntax: Syntax,
    /// Last layers of CLIP that do not read it, where the picture's own metadata says it.
    pub clip_skip: Option<usize>,
    /// Seed of the noise, where the picture's own metadata says it.
    pub seed: Option<u64>,
    /// What the picture's own metadata says, where the caption is from there.
    pub metadata: Option<Metadata>,
}

/// The pictures that `path` names with their captions, in order.
///
/// Of a folder they are its png, jpeg and webp files by name, and those of folders within that its
/// list names. A caption is the text of the `.txt` or `.caption` file beside a picture. Else it is
/// that of the folder's `metadata.jsonl` or `metadata.csv`, else what the picture's own metadata
/// says. A list is a `.txt` file with a picture per line, or a `.csv` or `.jsonl` file. Those have
/// a column of pictures (`file_name`) and one of captions (`text`). A picture stands there as often
/// as rows of a list name it. Without `metadata` nothing is taken from the pictures themselves.
///
/// # Errors
/// [`Error::Argument`] on `IMAGE` for a folder without pictures and for a list that cannot be read.
pub fn read_captioned(path: &Path, metadata: bool) -> Result<Vec<Captioned>> {
    let refuse = |reason: String| Error::argument(IMAGE, format!("{}: {reason}", path.display()));
    let (folder, listed) = match path.is_dir() {
        true => {
            let lists = LISTS.map(|name| path.join(name)).into_iter().find(|list| list.is_file());
            let listed = lists.map(|list| read_list(&list)).transpose()?.unwrap_or_default();
            let unlisted = pictures_in(path)?.into_iter().map(|picture| (picture, Vec::new()));
            let mut pictures: BTreeMap<PathBuf, Vec<Option<String>>> = unlisted.collect();
            // A row may name a picture of a folder within.
            let is_picture = |picture: &Path| PICTURES.contains(&ending(picture).as_str()) && picture.is_file();
            for (picture, caption) in listed {
                if pictures.contains_key(&picture) || is_picture(&picture) {
                    pictures.entry(picture).or_default().push(caption);
                }
            }
            let mut found = Vec::new();
            for (picture, mut rows) in pictures {
                let last = rows.pop().flatten();
                found.extend(rows.into_iter().map(|caption| (picture.clone(), caption)));
                found.push((picture, last));
            }
            (true, found)
        }
        false => (false, read_list(path)?),
    };
    if listed.is_empty() && folder {
        return Err(refuse("no png, jpeg or webp file lies in this folder; give one that has pictures".into()));
    }
    if listed.is_empty() {
        return Err(refuse("the list names no picture".into()));
    }
    if listed.len() > MOST {
        return Err(refuse(format!("{} pictures are more than {MOST}; give a part of them", listed.len())));
    }
    let mut texts = TextFiles::default();
    let found = listed.into_iter().map(|(picture, caption)| captioned(picture, caption, metadata, &mut texts));
    Ok(found.collect())
}

/// Whether `path` names many pictures: a folder, or a list.
pub fn is_many(path: &Path) -> bool {
    path.is_dir() || matches!(ending(path).as_str(), "txt" | "csv" | "jsonl")
}

fn ending(path: &Path) -> String {
    path.extension().map_or_else(String::new, |ending| ending.to_string_lossy().to_lowercase())
}

fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && PICTURES.contains(&ending(&path).as_str()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The caption of `picture`: the file beside it, what the list `said`, or its metadata.
fn captioned(picture: PathBuf, said: Option<String>, metadata: bool, texts: &mut TextFiles) -> Captioned {
    let plain = |caption| Captioned {
        picture: picture.clone(),
        caption,
        syntax: Syntax::default(),
        clip_skip: None,
        seed: None,
        metadata: None,
    };
    if let Some(file) = texts.beside(&picture) {
        return plain(caption_file(&file));
    }
    if let Some(said) = said {
        return plain(whole(&said).ok_or_else(|| "its caption in the list is empty".to_owned()));
    }
    if !metadata {
        return plain(Err("no caption: no .txt file lies beside it".into()));
    }
    match files::read(&picture).map_err(|error| error.to_string()).and_then(|bytes| picture::metadata(&bytes)) {
        Ok(Some(found)) => Captioned {
            picture,
            caption: Ok(found.prompt.clone()),
            syntax: found.syntax,
            clip_skip: found.clip_skip,
            seed: found.seed,
            metadata: Some(found),
        },
        Ok(None) => plain(Err("no caption: no .txt file lies beside it, and its metadata has none".into())),
        Err(reason) => plain(Err(format!("no caption: no .txt file lies beside it, and {reason}"))),
    }
}

/// The names of text files in one folder by their stems and their endings in lower case.
type TextNames = HashMap<(OsString, &'static str), PathBuf>;

/// The text files beside pictures. A folder is read once, and only where one is missing whose
/// ending is in lower case.
#[derive(Default)]
struct TextFiles {
    folders: HashMap<PathBuf, TextNames>,
}

impl TextFiles {
    /// The text file beside `picture`, whichever case its ending has.
    fn beside(&mut self, picture: &Path) -> Option<PathBuf> {
        CAPTIONS.into_iter().find_map(|ending| {
            let usual = picture.with_extension(ending);
            if usual.is_file() { Some(usual) } else { self.in_other_case(picture, ending) }
        })
    }

    fn in_other_case(&mut self, picture: &Path, ending: &'static str) -> Option<PathBuf> {
        let folder = picture.parent()?;
        let names = self.folders.entry(folder.to_owned()).or_insert_with(|| text_names(folder));
        let name = names.get(&(picture.file_stem()?.to_owned(), ending))?;
        Some(picture.with_file_name(name)).filter(|file| file.is_file())
    }
}

fn text_names(folder: &Path) -> TextNames {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut found = TextNames::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = PathBuf::from(entry.file_name());
        let kind = CAPTIONS.into_iter().find(|kind| *kind == ending(&name));
        let Some((stem, kind)) = name.file_stem().map(OsString::from).zip(kind) else { continue };
        let first = found.entry((stem, kind)).or_insert_with(|| name.clone());
        // The same one, whatever order the folder has.
        if name < *first {
            *first = name;
        }
    }
    found
}

fn caption_file(file: &Path) -> Result<String, String> {
    let name = file.display();
    let bytes = files::read(file).map_err(|error| format!("{name} cannot be read ({error})"))?;
    if bytes.len() > LONGEST {
        return Err(format!("{name} has {} bytes, which is no caption", bytes.len()));
    }
    let text = files::text(bytes).ok_or_else(|| format!("{name} is not UTF-8 text"))?;
    whole(&text).ok_or_else(|| format!("{name} is empty"))
}

/// A caption in one line; `None` where it is empty.
fn whole(text: &str) -> Option<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// The pictures of a list, from its own folder on, with their captions where it has some.
fn read_list(list: &Path) -> Result<Vec<(PathBuf, Option<String>)>> {
    let refuse = |reason: String| Error::argument(IMAGE, format!("{}: {reason}", list.display()));
    let bytes = files::read(list).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refuse("no such file".into()),
        _ => refuse(format!("cannot be read ({error})")),
    })?;
    let text = files::text(bytes).ok_or_else(|| refuse("not UTF-8 text".into()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let folder = list.parent().unwrap_or(Path::new(""));
    let line = |number: usize, reason: &str| refuse(format!("line {number}: {reason}"));
    let mut found = Vec::new();
    match ending(list).as_str() {
        "jsonl" => {
            for (at, row) in files::lines(text).enumerate().filter(|(_, row)| !row.trim().is_empty()) {
                let Ok(Value::Object(row)) = serde_json::from_str(row) else {
                    return Err(line(at + 1, "not a JSON object"));
                };
                let field = |names: &[&str]| names.iter().find_map(|name| row.get(*name)?.as_str().map(str::to_owned));
                let picture = field(&COLUMNS[0]).ok_or_else(|| line(at + 1, "no `file_name`"))?;
                found.push((folder.join(picture), field(&COLUMNS[1])));
            }
        }
        "csv" => {
            if let Some(at) = quotes::unclosed(text) {
                return Err(line(at, quotes::UNCLOSED));
            }
            let mut rows = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
            let header = rows.headers().map_err(|error| refuse(error.to_string()))?.clone();
            let column = |names: &[&str]| header.iter().position(|name| names.contains(&name.trim()));
            let picture = column(&COLUMNS[0]).ok_or_else(|| line(1, "no column `file_name`"))?;
            let caption = column(&COLUMNS[1]);
            for row in rows.records() {
                let row = row.map_err(|error| refuse(error.to_string()))?;
                // A caption with commas that is not in quotes would lose all behind the first.
                if row.iter().skip(header.len()).any(|field| !field.trim().is_empty()) {
                    let at = row.position().map_or(0, |position| position.line() as usize);
                    return Err(line(at, "more fields than columns; a caption with commas stands in quotes"));
                }
                let Some(name) = row.get(picture).filter(|name| !name.trim().is_empty()) else { continue };
                let caption = caption.and_then(|caption| row.get(caption)).map(str::to_owned);
                found.push((folder.join(name.trim()), caption.filter(|caption| !caption.trim().is_empty())));
            }
        }
        _ => {
            let lines = files::lines(text).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            found.extend(lines.map(|name| (folder.join(name), None)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(path: &Path) -> Vec<(String, Result<String, String>)> {
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let all = read_captioned(path, true).unwrap();
        all.into_iter().map(|found| (name(&found.picture), found.caption)).collect()
    }

    #[test]
    fn captions_lie_beside_or_in_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b.png", "a.JPG", "c.webp", "d.png", "e.png", "notes.md", ".hidden.png"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::write(at("a.txt"), "\u{feff}a frog,\n on a stone\n").unwrap();
        fs::write(at("b.caption"), "an apple").unwrap();
        fs::write(at("d.txt"), b"\xff").unwrap();
        fs::write(at("metadata.jsonl"), "{\"file_name\": \"c.webp\", \"text\": \"a fox\"}\n").unwrap();
        let found = read(folder.path());
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.JPG", "b.png", "c.webp", "d.png", "e.png"]);
        let captions = ["a frog, on a stone", "an apple", "a fox"];
        assert!(found.iter().zip(captions).all(|((_, caption), expected)| caption.as_deref() == Ok(expected)));
        assert!(found[3].1.as_ref().unwrap_err().contains("d.txt is not UTF-8"));
        assert!(found[4].1.as_ref().unwrap_err().contains("no .txt file lies beside it"));
        // UTF-16.
        fs::write(at("d.txt"), "a\0 \0f\0o\0x\0").unwrap();
        assert!(read(folder.path())[3].1.as_ref().unwrap_err().contains("d.txt is not UTF-8"));
        // The list's rows may name pictures of folders within.
        fs::create_dir(at("more")).unwrap();
        fs::write(at("more/f.png"), "x").unwrap();
        let row = |name: &str, text: &str| format!("{}\n", serde_json::json!({"file_name": name, "text": text}));
        let rows = [row("./c.webp", "a fox"), row("more/f.png", "a cat"), row("more/gone.png", "x")];
        fs::write(at("metadata.jsonl"), rows.concat()).unwrap();
        let found = read(folder.path());
        assert_eq!((found.len(), found[2].1.as_deref()), (6, Ok("a fox")));
        assert_eq!((found[5].0.as_str(), found[5].1.as_deref()), ("f.png", Ok("a cat")));
        fs::write(at("list.csv"), "caption,image\n\"a, b\",b.png\n,c.webp\n").unwrap();
        let found = read(&at("list.csv"));
        // A file beside a picture comes first.
        assert_eq!((found[0].1.as_deref(), found.len()), (Ok("an apple"), 2));
        // A picture of several rows has a caption of each, in a folder as in a list.
        fs::write(at("metadata.jsonl"), [row("c.webp", "a fox"), row("./c.webp", "a cat")].concat()).unwrap();
        let of_folder = read(folder.path());
        let of_folder: Vec<_> = of_folder.iter().filter(|(name, _)| name == "c.webp").collect();
        let of_list = read(&at("metadata.jsonl"));
        assert_eq!(of_folder, of_list.iter().collect::<Vec<_>>());
        assert_eq!(
            of_list.iter().filter_map(|(_, caption)| caption.as_deref().ok()).collect::<Vec<_>>(),
            ["a fox", "a cat"]
        );
        // Spreadsheets end rows with empty fields.
        fs::write(at("list.csv"), "caption,image\n\"a, b\",c.webp,,\n").unwrap();
        assert_eq!(read(&at("list.csv"))[0].1.as_deref(), Ok("a, b"));
        fs::write(at("list.txt"), "# some\na.JPG\n\nb.png\n").unwrap();
        assert_eq!(read(&at("list.txt")).len(), 2);
    }

    #[test]
    fn endings_are_read_in_any_case() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        for (picture, texts) in [
            ("A.PNG", &[("A.TXT", "a frog")][..]),
            ("b.jpg", &[("b.Caption", "a fox")]),
            ("c.png", &[("c.caption", "a cat"), ("c.Txt", "an owl")]),
            ("d.e.webp", &[("d.e.tXT", "a hat"), ("d.TXT", "a stone")]),
        ] {
            write(picture, "x");
            texts.iter().for_each(|(name, text)| write(name, text));
        }
        let found = read(folder.path());
        let captions: Vec<&str> = found.iter().filter_map(|(_, caption)| caption.as_deref().ok()).collect();
        assert_eq!(captions, ["a frog", "a fox", "an owl", "a hat"], "{found:?}");
        write("list.txt", "b.jpg\nA.PNG\n");
        let found = read(&folder.path().join("list.txt"));
        assert_eq!(
            found.iter().filter_map(|(_, caption)| caption.as_deref().ok()).collect::<Vec<_>>(),
            ["a fox", "a frog"]
        );
    }

    #[test]
    fn lists_that_cannot_be_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let refused = |name: &str, text: &[u8], part: &str| {
            fs::write(at(name), text).unwrap();
            let error = read_captioned(&at(name), true).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(part), "{error}");
        };
        refused("a.jsonl", b"[1]\n", "line 1: not a JSON object");
        refused("a.jsonl", b"{\"text\": \"x\"}\n", "no `file_name`");
        refused("a.csv", b"a,b\n1,2\n", "no column `file_name`");
        refused("a.csv", b"image,text\nb.png,a red apple, a frog\n", "line 2: more fields than columns");
        refused("a.csv", b"image,text\nb.png,\"a red apple\na.png,a frog\n", "line 2: a quotation mark opens here");
        refused("a.txt", b"\n# none\n", "names no picture");
        refused("a.txt", b"\xff", "not UTF-8");
        refused("a.txt", b"b\0.\0p\0n\0g\0", "not UTF-8");
        let empty = tempfile::tempdir().unwrap();
        assert!(read_captioned(empty.path(), true).unwrap_err().to_string().contains("no png, jpeg or webp"));
    }
}
