//! The hub, as a small server on the loopback interface speaks it: present, missing, gated,
//! interrupted, offline.

use crate::checkpoint::Copy;
use attnmap::checkpoint::{Changes, Checkpoint, HubOptions, OpenOptions, Progress, Source};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const REPO: &str = "owner/tiny";
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// What the server does out of the ordinary.
#[derive(Debug, Clone, Default)]
struct Behaviour {
    /// Bytes after which the body of the UNet's weights ends, with the connection.
    cut: Option<usize>,
    /// Whether that cut body claims to be whole, so that only its size betrays it.
    lie: bool,
    /// Status and `X-Error-Code` for every request without this token.
    gate: Option<(u16, &'static str, &'static str)>,
    /// Names left out of the listing.
    hidden: Vec<&'static str>,
    /// Names listed in addition.
    extra: Vec<&'static str>,
    /// Every answer is this server error.
    broken: Option<u16>,
    /// Whether parts of files are sent; `cut` then counts from the start of the part.
    ranges: bool,
    /// Another server that has the content of the UNet's weights.
    elsewhere: Option<String>,
    /// A path on this server under which the content of the other files lies.
    moved: bool,
}

/// What a request carried.
#[derive(Debug, Clone)]
struct Carried {
    path: String,
    token: Option<String>,
    range: Option<String>,
}

struct Server {
    address: String,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<Mutex<Vec<String>>>,
    carried: Arc<Mutex<Vec<Carried>>>,
}

impl Server {
    /// Serves the folder `files` as `owner/tiny`, branch `main`.
    fn start(files: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let behaviour = Arc::<Mutex<Behaviour>>::default();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let carried = Arc::<Mutex<Vec<Carried>>>::default();
        let (shared, log, more) = (behaviour.clone(), requests.clone(), carried.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (behaviour, log, more, files) = (shared.clone(), log.clone(), more.clone(), files.clone());
                thread::spawn(move || {
                    let behaviour: Behaviour = behaviour.lock().unwrap().clone();
                    // A client that hangs up is no concern of the server's.
                    let _ = answer(stream, &behaviour, &log, &more, &files);
                });
            }
        });
        Self { address, behaviour, requests, carried }
    }

    fn set(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// The requests since the last call.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }

    /// What the requests since the last call carried.
    fn carried(&self) -> Vec<Carried> {
        std::mem::take(&mut *self.carried.lock().unwrap())
    }
}

fn answer(
    mut stream: TcpStream,
    behaviour: &Behaviour,
    log: &Mutex<Vec<String>>,
    carried: &Mutex<Vec<Carried>>,
    files: &Path,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
    log.lock().unwrap().push(request.clone());
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let range = headers.get("range").cloned();
    let token = headers.get("authorization").cloned();
    carried.lock().unwrap().push(Carried { path: path.to_string(), token, range: range.clone() });
    let mut send = |status: u16, headers: &str, length: usize, body: &[u8]| -> std::io::Result<()> {
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
        if method != "HEAD" {
            stream.write_all(body)?;
        }
        stream.flush()
    };
    if let Some(status) = behaviour.broken {
        return send(status, "", 0, b"");
    }
    if let Some((status, code, token)) = behaviour.gate
        && headers.get("authorization").is_none_or(|sent| *sent != format!("Bearer {token}"))
    {
        let code = if code.is_empty() { String::new() } else { format!("X-Error-Code: {code}\r\n") };
        return send(status, &code, 0, b"");
    }
    let revision = |revision: &str| ["main", "v1", COMMIT].contains(&revision);
    if let Some(wanted) = path.strip_prefix("/api/models/owner/tiny/revision/") {
        if !revision(wanted) {
            return send(404, "X-Error-Code: RevisionNotFound\r\n", 0, b"");
        }
        let mut names = Vec::new();
        list(files, "", &mut names);
        names.retain(|name| !behaviour.hidden.contains(&name.as_str()));
        names.extend(behaviour.extra.iter().map(|name| name.to_string()));
        let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"id": REPO, "sha": COMMIT, "gated": false, "siblings": siblings}).to_string();
        return send(200, "Content-Type: application/json\r\n", body.len(), body.as_bytes());
    }
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    if behaviour.moved && !path.ends_with(UNET) && path.starts_with("/owner/tiny/resolve/") {
        return send(307, &format!("Location: /moved{path}\r\n"), 0, b"");
    }
    let path = path.strip_prefix("/moved").unwrap_or(&path);
    let file = path.strip_prefix("/owner/tiny/resolve/").and_then(|rest| rest.split_once('/'));
    let Some((_, name)) = file.filter(|(wanted, _)| revision(wanted)) else {
        return send(404, "X-Error-Code: RepoNotFound\r\n", 0, b"");
    };
    let Ok(body) = fs::read(files.join(name)) else {
        return send(404, &format!("X-Error-Code: EntryNotFound\r\nX-Repo-Commit: {COMMIT}\r\n"), 0, b"");
    };
    let etag: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n");
    if let Some(other) = behaviour.elsewhere.as_ref().filter(|_| name == UNET) {
        // As the hub answers for large files.
        let about = format!("X-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {}\r\nETag: \"other\"\r\n", body.len());
        return send(302, &format!("{about}X-Repo-Commit: {COMMIT}\r\nLocation: {other}{path}\r\n"), 0, b"");
    }
    let start = range
        .filter(|_| behaviour.ranges && method == "GET")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let (status, headers) = match start {
        Some(start) => (206, format!("{headers}Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len())),
        None => (200, headers),
    };
    let body = &body[start.unwrap_or(0)..];
    match behaviour.cut {
        Some(cut) if name == UNET && method == "GET" && cut < body.len() => {
            let length = if behaviour.lie { cut } else { body.len() };
            send(status, &headers, length, &body[..cut])
        }
        _ => send(status, &headers, body.len(), body),
    }
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() { list(&entry.path(), &format!("{name}/"), names) } else { names.push(name) }
    }
    names.sort();
}

/// A server, the folder that it serves, and an empty cache.
struct World {
    server: Server,
    files: Copy,
    cache: TempDir,
}

impl World {
    fn new() -> Self {
        let files = Copy::of("tiny-sd1");
        // What no prompt passes through must not be fetched.
        fs::create_dir(files.path().join("safety_checker")).unwrap();
        fs::write(files.path().join("safety_checker/model.safetensors"), "large").unwrap();
        fs::write(files.path().join("unet/diffusion_pytorch_model.bin"), "pickle").unwrap();
        fs::write(files.path().join("README.md"), "card").unwrap();
        let server = Server::start(files.path().to_path_buf());
        Self { server, files, cache: TempDir::new().unwrap() }
    }

    fn options(&self) -> OpenOptions {
        let hub = HubOptions {
            endpoint: Some(self.server.address.clone()),
            token: Some("none".into()),
            cache: Some(self.cache.path().into()),
            offline: Some(false),
        };
        OpenOptions { hub, ..Default::default() }
    }

    fn open_as(&self, id: &str, options: &OpenOptions) -> attnmap::Result<Checkpoint> {
        Checkpoint::open(&id.parse::<Source>().unwrap(), options)
    }

    fn open(&self) -> attnmap::Result<Checkpoint> {
        self.open_as(REPO, &self.options())
    }

    fn offline(&self, id: &str) -> attnmap::Result<Checkpoint> {
        let mut options = self.options();
        options.hub.offline = Some(true);
        self.open_as(id, &options)
    }

    fn refusal(&self, id: &str) -> String {
        let error = self.open_as(id, &self.options()).expect_err("the server does not let this pass");
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.starts_with("owner/"), "{message}");
        assert_eq!(error.exit_code(), 1);
        message
    }

    fn repository(&self) -> PathBuf {
        self.cache.path().join("models--owner--tiny")
    }
}

/// Reads every tensor of every part.
fn load(checkpoint: &Checkpoint) {
    for &part in checkpoint.index.parts() {
        let weights = checkpoint.weights(part).unwrap();
        let shapes = weights.shapes();
        weights
            .load(candle_core::DType::F32, &candle_core::Device::Cpu, |vb| {
                for (name, shape) in &shapes {
                    vb.get(shape.clone(), name)?;
                }
                Ok(())
            })
            .unwrap();
    }
}

#[derive(Default)]
struct Seen(Mutex<BTreeMap<String, Vec<(u64, u64)>>>);

impl Progress for Seen {
    fn download(&self, file: &str, done: u64, total: u64) {
        self.0.lock().unwrap().entry(file.to_string()).or_default().push((done, total));
    }
}

#[test]
fn a_repository_is_fetched_once_and_only_what_is_needed() {
    let world = World::new();
    let seen = Arc::new(Seen::default());
    let options = OpenOptions { progress: Some(seen.clone()), ..world.options() };
    let checkpoint = world.open_as(REPO, &options).unwrap();
    assert_eq!(checkpoint.id, REPO);
    load(&checkpoint);

    let requests = world.server.requests();
    for unwanted in ["safety_checker", ".bin", "README"] {
        assert!(!requests.iter().any(|request| request.contains(unwanted)), "{requests:#?}");
    }
    // Progress begins at nothing, never falls, and ends at the whole.
    let seen = seen.0.lock().unwrap();
    let length = fs::metadata(world.files.path().join(UNET)).unwrap().len();
    let steps = &seen[UNET];
    assert_eq!((steps[0], *steps.last().unwrap()), ((0, length), (length, length)));
    assert!(steps.is_sorted());
    assert_eq!(steps.iter().filter(|(done, total)| done == total).count(), 1);

    // The cache is laid out as Python's: a snapshot of links to blobs named by etag, and a branch
    // that points at it.
    let repository = world.repository();
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let weights = repository.join("snapshots").join(COMMIT).join(UNET);
    let etag: String = Sha256::digest(fs::read(&weights).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(fs::canonicalize(&weights).unwrap(), fs::canonicalize(repository.join("blobs").join(etag)).unwrap());

    let cached = attnmap::checkpoint::cached_pipelines(&options.hub);
    assert_eq!(cached.len(), 1);
    assert_eq!((cached[0].id(), cached[0].commit.as_str()), (REPO.to_string(), COMMIT));

    // A second time asks only whether the branch has moved; a commit asks nothing at all.
    world.open().unwrap();
    assert_eq!(world.server.requests(), ["GET /api/models/owner/tiny/revision/main HTTP/1.1"]);
    world.open_as(&format!("{REPO}@{COMMIT}"), &world.options()).unwrap();
    assert!(world.server.requests().is_empty());
}

#[test]
fn offline_uses_the_cache_and_says_what_it_lacks() {
    let world = World::new();
    let message = world.offline(REPO).unwrap_err().to_string();
    assert!(message.contains("no network is used here") && message.contains("does not have it"), "{message}");
    assert!(world.server.requests().is_empty());

    world.open().unwrap();
    world.server.requests();
    load(&world.offline(REPO).unwrap());
    load(&world.offline(&format!("{REPO}@{COMMIT}")).unwrap());
    assert!(world.server.requests().is_empty());
    assert!(world.offline("owner/tiny@v1").is_err());

    fs::remove_file(world.repository().join("snapshots").join(COMMIT).join(UNET)).unwrap();
    let message = world.offline(REPO).unwrap_err().to_string();
    assert!(message.contains("incomplete copy"), "{message}");
}

#[test]
fn a_server_that_cannot_be_reached_is_no_obstacle_to_what_is_cached() {
    let world = World::new();
    world.open().unwrap();
    let mut options = world.options();
    // A port that was free a moment ago: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    options.hub.endpoint = Some(format!("http://127.0.0.1:{port}"));
    load(&world.open_as(REPO, &options).unwrap());
    let message = world.open_as("owner/other", &options).unwrap_err().to_string();
    assert!(message.contains("cannot be reached") && message.contains("HF_ENDPOINT"), "{message}");

    world.server.set(Behaviour { broken: Some(503), ..Default::default() });
    load(&world.open().unwrap());
    let message = world.refusal("owner/other");
    assert!(message.contains("503"), "{message}");
}

#[test]
fn what_is_not_there_is_named() {
    let world = World::new();
    let message = world.refusal("owner/other");
    assert!(message.contains("no such repository") && message.contains("HF_TOKEN"), "{message}");
    let message = world.refusal("owner/tiny@v9");
    assert!(message.contains("no revision `v9`"), "{message}");
    // The hub answers 401 for what does not exist, lest names leak.
    world.server.set(Behaviour { gate: Some((401, "RepoNotFound", "secret")), ..Default::default() });
    assert!(world.refusal("owner/other").contains("no such repository"));
    assert!(!world.repository().join("refs").exists());
}

#[test]
fn a_gated_repository_says_how_to_get_in() {
    let world = World::new();
    for (status, code) in [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")] {
        world.server.set(Behaviour { gate: Some((status, code, "secret")), ..Default::default() });
        let message = world.refusal(REPO);
        let page = format!("{}/{REPO}", world.server.address);
        assert!(message.contains("gated") && message.contains(&page) && message.contains("HF_TOKEN"), "{message}");
    }
    let mut options = world.options();
    options.hub.token = Some("secret".into());
    load(&world.open_as(REPO, &options).unwrap());
}

#[test]
fn an_interrupted_download_is_not_used_and_starts_again() {
    for lie in [false, true] {
        let world = World::new();
        world.server.set(Behaviour { cut: Some(10_000), lie, ..Default::default() });
        let message = world.refusal(REPO);
        assert!(message.contains(UNET) && message.contains("interrupted"), "{message}");
        assert!(message.contains("run the command again"), "{message}");
        // Nothing leads to the half, neither a file name nor a branch.
        assert!(!world.repository().join("snapshots").join(COMMIT).join(UNET).exists());
        assert!(!world.repository().join("refs/main").exists());
        assert!(world.offline(REPO).is_err());

        world.server.set(Behaviour::default());
        world.server.requests();
        load(&world.open().unwrap());
        // What had arrived whole is not fetched again.
        assert!(!world.server.requests().iter().any(|request| request.contains("text_encoder/config.json")));
    }
}

#[test]
fn what_cannot_be_used_is_refused_before_weights_are_fetched() {
    let world = World::new();
    let fetched = |world: &World| {
        let requests = world.server.requests();
        requests.into_iter().filter(|request| request.contains(".safetensors")).count()
    };
    world.server.set(Behaviour { hidden: vec![UNET], ..Default::default() });
    let message = world.refusal(REPO);
    assert!(message.contains("owner/tiny/unet") && message.contains("pickle"), "{message}");

    let all = ["model_index.json"];
    world.server.set(Behaviour { hidden: all.to_vec(), extra: vec!["v1-5-pruned.ckpt"], ..Default::default() });
    let message = world.refusal(REPO);
    assert!(message.contains("no model_index.json") && message.contains("pickle"), "{message}");

    world.server.set(Behaviour { hidden: vec!["scheduler/scheduler_config.json"], ..Default::default() });
    assert!(world.refusal(REPO).contains("scheduler/scheduler_config.json"));

    world.server.set(Behaviour::default());
    let variant = OpenOptions { changes: fp16(), ..world.options() };
    assert!(world.open_as(REPO, &variant).unwrap_err().to_string().contains("leave `variant` out"));

    let index = world.files.path().join("model_index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("StableDiffusionPipeline", "PixArtSigmaPipeline")).unwrap();
    let cache = TempDir::new().unwrap();
    let mut options = world.options();
    options.hub.cache = Some(cache.path().into());
    let message = world.open_as(REPO, &options).unwrap_err().to_string();
    assert!(message.contains("PixArt") && message.contains(REPO), "{message}");
    fs::write(&index, text).unwrap();

    let config = world.files.path().join("unet/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"silu\"", "\"mish\"")).unwrap();
    assert!(world.open().unwrap_err().to_string().contains("mish"));
    assert_eq!(fetched(&world), 0);
}

fn fp16() -> Changes {
    Changes { variant: Some("fp16".into()), ..Default::default() }
}

#[test]
fn shards_and_variants_are_fetched_by_their_names() {
    let world = World::new();
    for file in [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"] {
        let path = world.files.path().join(file);
        fs::copy(&path, path.with_extension("fp16.safetensors")).unwrap();
    }
    // The UNet's variant as one shard under an index.
    let unet = world.files.path().join("unet");
    let shard = "diffusion_pytorch_model.fp16-00001-of-00001.safetensors";
    fs::rename(unet.join("diffusion_pytorch_model.fp16.safetensors"), unet.join(shard)).unwrap();
    let index = serde_json::json!({"metadata": {}, "weight_map": {"conv_in.weight": shard}});
    fs::write(unet.join("diffusion_pytorch_model.safetensors.index.fp16.json"), index.to_string()).unwrap();

    let options = OpenOptions { changes: fp16(), ..world.options() };
    load(&world.open_as(REPO, &options).unwrap());
    let requests = world.server.requests();
    assert!(requests.iter().any(|request| request.contains(shard)));
    assert!(!requests.iter().any(|request| request.contains(&format!("GET /{UNET}"))), "{requests:#?}");
    assert!(!requests.iter().any(|request| request.contains("text_encoder/model.safetensors")), "{requests:#?}");
}

/// A server that has the tiny checkpoint as a single file too, and adapters for it.
fn singles() -> (World, Changes) {
    let world = World::new();
    let (_kept, single) = crate::single::tiny_file("tiny-sd1", |_| {});
    fs::copy(single, world.files.path().join("tiny.safetensors")).unwrap();
    fs::create_dir(world.files.path().join("adapters")).unwrap();
    for (from, to) in [("kohya-sd1", "style"), ("three-vectors", "adapters/cat")] {
        let to = world.files.path().join(format!("{to}.safetensors"));
        fs::copy(fixture(&format!("adapters/{from}.safetensors")), to).unwrap();
    }
    // The tokenizer of a tiny checkpoint is none that is built in.
    (world, Changes { config: Some(fixture("tiny-sd1")), ..Default::default() })
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn a_single_file_is_fetched_alone_and_found_again() {
    let (world, config) = singles();
    let options = OpenOptions { changes: config.clone(), ..world.options() };
    let offline = || {
        let mut offline = OpenOptions { changes: config.clone(), ..world.options() };
        offline.hub.offline = Some(true);
        offline
    };
    let single = "owner/tiny/tiny.safetensors";
    let message = world.open_as(single, &offline()).unwrap_err().to_string();
    assert!(
        message.contains("no network is used here") && message.contains("nor is there a file owner/tiny/"),
        "{message}"
    );
    let checkpoint = world.open_as(single, &options).unwrap();
    load(&checkpoint);
    assert_eq!(checkpoint.id, single);
    let fetched: Vec<String> =
        world.server.requests().into_iter().filter(|request| request.contains("/resolve/")).collect();
    assert!(!fetched.is_empty() && fetched.iter().all(|request| request.contains("tiny.safetensors")), "{fetched:#?}");
    // The same weights as the file at home.
    let (_kept, path) = crate::single::tiny_file("tiny-sd1", |_| {});
    let home = Checkpoint::open(&Source::File(path), &OpenOptions { changes: config.clone(), ..Default::default() });
    assert_eq!(checkpoint.digest().unwrap(), home.unwrap().digest().unwrap());
    // From the cache: without a network, by branch and commit, and where the server is out of
    // order.
    load(&world.open_as(single, &offline()).unwrap());
    let pinned = format!("{single}@{COMMIT}");
    world.server.requests();
    assert_eq!(world.open_as(&pinned, &options).unwrap().id, pinned);
    assert_eq!(world.server.requests(), Vec::<String>::new());
    world.server.set(Behaviour { broken: Some(503), ..Default::default() });
    load(&world.open_as(single, &options).unwrap());
    // Part of the repository in the cache is not taken for all of it.
    let message = world.offline(REPO).unwrap_err().to_string();
    assert!(message.contains("incomplete copy"), "{message}");

    world.server.set(Behaviour::default());
    let message = world.open_as("owner/tiny/other.safetensors", &options).unwrap_err().to_string();
    let listed = "owner/tiny/style.safetensors or owner/tiny/tiny.safetensors or owner/tiny/adapters/cat.safetensors";
    assert!(message.contains("has no other.safetensors; it has") && message.contains(listed), "{message}");
    world.server.set(Behaviour { hidden: vec!["model_index.json"], ..Default::default() });
    let message = world.refusal(REPO);
    assert!(message.contains("has no model_index.json, but single files: give one with `model`"), "{message}");
    assert!(message.contains(listed) && !message.contains("unet"), "{message}");
}

/// Repositories of quantised transformers hold nothing else; the rest is the folder's.
#[test]
fn a_gguf_file_is_fetched_as_a_single_file_is() {
    let world = World::new();
    let name = "schnell-Q8_0.gguf";
    fs::copy(fixture("flux/schnell.gguf"), world.files.path().join(name)).unwrap();
    let id = format!("owner/tiny/{name}");
    let changes = Changes { config: Some(fixture("tiny-flux-schnell")), ..Default::default() };
    let options = OpenOptions { changes, ..world.options() };
    let checkpoint = world.open_as(&id, &options).unwrap();
    load(&checkpoint);
    assert_eq!(checkpoint.id, id);
    let home = Checkpoint::open(&Source::File(fixture("flux/schnell.gguf")), &options).unwrap();
    assert_eq!(checkpoint.digest().unwrap(), home.digest().unwrap());

    world.server.set(Behaviour { hidden: vec!["model_index.json"], ..Default::default() });
    let message = world.refusal(REPO);
    assert!(message.contains(&format!("but single files: give one with `model` {id}")), "{message}");
    let changes = Changes { loras: vec![id.parse().unwrap()], ..Default::default() };
    let options = OpenOptions { changes, ..world.options() };
    let error = Checkpoint::open(&Source::Folder(fixture("tiny-sd1")), &options).unwrap_err();
    assert!(error.to_string().contains("is no .safetensors file") && error.exit_code() == 2, "{error}");
}

#[test]
fn adapters_come_from_the_hub_where_they_are_not_here() {
    let (world, _) = singles();
    let open = |lora: &str, embedding: &str| {
        let loras = vec![lora.parse().unwrap()];
        let changes = Changes { loras, embeddings: vec![embedding.parse().unwrap()], ..Default::default() };
        Checkpoint::open(&Source::Folder(fixture("tiny-sd1")), &OpenOptions { changes, ..world.options() })
    };
    let here = |name: &str| fixture(&format!("adapters/{name}.safetensors")).display().to_string();
    let home = open(&(here("kohya-sd1") + ":0.7"), &(here("three-vectors") + ":<cat>")).unwrap();
    assert_eq!(world.server.requests(), Vec::<String>::new());
    let (lora, embedding) = ("owner/tiny/style.safetensors:0.7", "owner/tiny/adapters/cat.safetensors@v1:<cat>");
    let fetched = open(lora, embedding).unwrap();
    assert_eq!(fetched.digest().unwrap(), home.digest().unwrap());
    let taught =
        |checkpoint: &Checkpoint| (checkpoint.added_words[0].word.clone(), checkpoint.added_words[0].ids.clone());
    assert_eq!(taught(&fetched), taught(&home));
    // A run records them as they were named.
    assert_eq!(fetched.changes.loras[0].to_string(), lora);
    assert_eq!(fetched.changes.embeddings[0].to_string(), embedding);
    // Without a word for it, the file's name is the word wherever it lies.
    assert_eq!(open(lora, "owner/tiny/adapters/cat.safetensors").unwrap().added_words[0].word, "cat");
    let message = open("owner/tiny/none.safetensors", embedding).unwrap_err().to_string();
    assert!(
        message.contains("owner/tiny: has no none.safetensors") && message.contains("nor is there a file"),
        "{message}"
    );
}

#[test]
fn a_repository_of_one_adapter_is_that_adapter() {
    let (world, _) = singles();
    let open = |lora: &str, offline: bool| {
        let changes = Changes { loras: vec![lora.parse().unwrap()], ..Default::default() };
        let mut options = OpenOptions { changes, ..world.options() };
        options.hub.offline = Some(offline);
        Checkpoint::open(&Source::Folder(fixture("tiny-sd1")), &options)
    };
    // Two files at the top: the way out that is named leads out.
    let message = open("owner/tiny", false).unwrap_err().to_string();
    assert!(
        message.contains("owner/tiny: holds 2 .safetensors files; name one: owner/tiny/style.safetensors or"),
        "{message}"
    );
    let named = open("owner/tiny/style.safetensors", false).unwrap();
    fs::copy(fixture("adapters/kohya-sd1.safetensors"), world.files.path().join("pytorch_lora_weights.safetensors"))
        .unwrap();
    for (text, offline) in [
        ("owner/tiny", false),
        ("owner/tiny", true),
        ("https://huggingface.co/owner/tiny", false),
        ("https://huggingface.co/owner/tiny/tree/main", true),
        ("https://huggingface.co/owner/tiny/blob/main/style.safetensors", false),
    ] {
        let found = open(text, offline).unwrap();
        assert_eq!(found.digest().unwrap(), named.digest().unwrap(), "{text}");
        assert_eq!(found.changes.loras[0].to_string(), format!("{text}:1"));
    }
    let message = open("owner/none", false).unwrap_err().to_string();
    assert!(message.contains("nor is there a file owner/none here"), "{message}");
}

/// An adapter may lie in a folder of its repository, and PEFT's scale then lies beside it there.
#[test]
fn an_adapter_in_a_folder_of_its_repository_is_found_with_its_scale() {
    let world = World::new();
    let folder = world.files.path().join("checkpoint-500");
    fs::create_dir(&folder).unwrap();
    fs::copy(fixture("adapters/kohya-sd1.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
    fs::write(folder.join("adapter_config.json"), "{\"peft_type\": \"LORA\", \"use_dora\": true}").unwrap();
    let parts = [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"];
    let hidden: Vec<_> = parts.into_iter().chain(["safety_checker/model.safetensors"]).collect();
    world.server.set(Behaviour { hidden: hidden.clone(), ..Default::default() });
    let open = |lora: &str, cache: &Path, offline: bool| {
        let changes = Changes { loras: vec![lora.parse().unwrap()], ..Default::default() };
        let mut options = OpenOptions { changes, ..world.options() };
        options.hub = HubOptions { cache: Some(cache.into()), offline: Some(offline), ..options.hub };
        Checkpoint::open(&Source::Folder(fixture("tiny-sd1")), &options)
    };
    // The config was read: it says what is refused.
    for name in ["owner/tiny", "owner/tiny/checkpoint-500/adapter_model.safetensors"] {
        let cache = TempDir::new().unwrap();
        for offline in [false, true] {
            let message = open(name, cache.path(), offline).unwrap_err().to_string();
            assert!(message.contains("checkpoint-500") && message.contains("DoRA"), "{name}, {offline}: {message}");
        }
    }
    fs::write(folder.join("adapter_config.json"), "{\"peft_type\": \"LORA\", \"lora_alpha\": 2}").unwrap();
    let cache = TempDir::new().unwrap();
    let fetched = open("owner/tiny", cache.path(), false).unwrap();
    let again = open("owner/tiny", cache.path(), true).unwrap();
    assert_eq!(again.digest().unwrap(), fetched.digest().unwrap());
    // Where the config is listed and does not come, the scale is not known.
    fs::remove_file(folder.join("adapter_config.json")).unwrap();
    let extra = vec!["checkpoint-500/adapter_config.json"];
    world.server.set(Behaviour { hidden, extra, ..Default::default() });
    let message = open("owner/tiny", TempDir::new().unwrap().path(), false).unwrap_err().to_string();
    assert!(message.contains("adapter_config.json is listed but not there"), "{message}");
}

#[test]
fn the_command_line_takes_files_of_the_hub() {
    let (world, _) = singles();
    let (home, place) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let run = |arguments: &[&str], more: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_attnmap"));
        command.current_dir(place.path()).args(arguments).env("HF_HOME", home.path()).env("HF_TOKEN", "none");
        command.env("HF_ENDPOINT", &world.server.address).env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE");
        let output = command.envs(more.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let config = fixture("tiny-sd1").display().to_string();
    let model = ["--model", "owner/tiny/tiny.safetensors", "--config", &config];
    let lora = ["--lora", "owner/tiny/style.safetensors:0.7"];
    let small = ["generate", "an apple", "--steps", "2", "--size", "64x64", "--out", "run"];
    run(&[&small[..], &model, &lora].concat(), &[]);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path().join("run/run.json")).unwrap()).unwrap();
    assert_eq!(record["checkpoint"]["id"], model[1]);
    assert_eq!(record["settings"]["loras"][0]["file"], "owner/tiny/style.safetensors");
    // What the run names is found in the cache.
    run(&["explain", "run"], &[("HF_HUB_OFFLINE", "1")]);
    run(&["models", model[1], "--config", &config], &[]);
}

#[test]
fn a_download_goes_on_where_it_ended() {
    let world = World::new();
    let length = fs::metadata(world.files.path().join(UNET)).unwrap().len() as usize;
    let part = length / 3 + 1;
    world.server.set(Behaviour { cut: Some(part), ranges: true, ..Default::default() });
    load(&world.open().unwrap());
    let asked = |world: &World| -> Vec<Option<String>> {
        let carried = world.server.carried().into_iter().filter(|request| request.path.ends_with(UNET));
        carried.map(|request| request.range).collect()
    };
    // What the server has is asked first, then the content in three parts.
    let rest = |start: usize| Some(format!("bytes={start}-"));
    assert_eq!(asked(&world), [None, None, rest(part), rest(2 * part)]);

    // A command that was ended left this; a part that is of something else is found out by the
    // digest of the whole.
    for begun in [fs::read(world.files.path().join(UNET)).unwrap()[..5000].to_vec(), vec![7; 5000]] {
        let blob = fs::canonicalize(world.repository().join("snapshots").join(COMMIT).join(UNET)).unwrap();
        fs::remove_file(&blob).unwrap();
        let right = begun[0] != 7;
        fs::write(blob.with_extension("incomplete"), begun).unwrap();
        world.server.set(Behaviour { ranges: true, ..Default::default() });
        if !right {
            let message = world.refusal(REPO);
            assert!(message.contains(UNET) && message.contains("arrived damaged"), "{message}");
            assert!(message.contains("run the command again"), "{message}");
        }
        load(&world.open().unwrap());
        let expected = if right { vec![None, rest(5000)] } else { vec![None, rest(5000), None, None] };
        assert_eq!(asked(&world), expected);
        assert!(!blob.with_extension("incomplete").exists());
    }
}

#[test]
fn a_damaged_file_in_the_cache_is_fetched_again_or_named() {
    let world = World::new();
    world.open().unwrap();
    let unreachable = || {
        let mut options = world.options();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        options.hub.endpoint = Some(format!("http://127.0.0.1:{port}"));
        options
    };
    let merges = "tokenizer/merges.txt";
    type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 7] = [
        (UNET, &|content| content.truncate(1000)),
        (UNET, &|content| content.clear()),
        (UNET, &|content| content[..64].fill(0)),
        (UNET, &|content| content.extend([0; 64])),
        ("unet/config.json", &|content| content.truncate(100)),
        ("model_index.json", &|content| content.clear()),
        (merges, &|content| content.truncate(content.len() / 2)),
    ];
    for (name, damage) in damages {
        for id in [REPO.to_string(), format!("{REPO}@{COMMIT}")] {
            let blob = fs::canonicalize(world.repository().join("snapshots").join(COMMIT).join(name)).unwrap();
            let mut content = fs::read(&blob).unwrap();
            damage(&mut content);
            fs::write(&blob, &content).unwrap();
            let named = format!("damaged {name}");
            let delete = format!("delete {}", blob.display());
            let without_server = world.open_as(&id, &unreachable());
            for error in [world.offline(&id).unwrap_err(), without_server.unwrap_err()] {
                let message = error.to_string();
                assert!(message.contains(&named) && message.contains(&delete), "{message}");
                assert_eq!(message.lines().count(), 1, "{message}");
            }
            world.server.requests();
            load(&world.open_as(&id, &world.options()).unwrap());
            let requests = world.server.requests();
            let fetched = |request: &&String| request.starts_with("GET") && request.contains("/resolve/");
            assert_eq!(requests.iter().filter(fetched).count(), 1, "{requests:#?}");
            assert!(requests.iter().any(|request| request.contains(name)), "{requests:#?}");
            load(&world.offline(&id).unwrap());
        }
    }
    // The advice works.
    let blob = fs::canonicalize(world.repository().join("snapshots").join(COMMIT).join(UNET)).unwrap();
    fs::remove_file(&blob).unwrap();
    load(&world.open().unwrap());
    assert!(blob.exists());
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let world = World::new();
    let other = Server::start(world.files.path().to_path_buf());
    let elsewhere = Some(other.address.clone());
    let gate = Some((401, "GatedRepo", "secret"));
    world.server.set(Behaviour { elsewhere, gate, moved: true, ..Default::default() });
    let mut options = world.options();
    options.hub.token = Some(" secret\n".into());
    load(&world.open_as(REPO, &options).unwrap());
    let (here, there) = (world.server.carried(), other.carried());
    assert!(here.iter().all(|request| request.token.as_deref() == Some("Bearer secret")), "{here:#?}");
    assert!(here.iter().any(|request| request.path.starts_with("/moved/")), "{here:#?}");
    assert_eq!(there.len(), 1, "{there:#?}");
    assert!(there[0].path.ends_with(UNET) && there[0].token.is_none(), "{there:#?}");
}

#[test]
fn two_programs_fetch_a_file_once() {
    let world = World::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load(&world.open().unwrap()));
        }
    });
    let requests = world.server.requests();
    let fetched = |request: &&String| request.starts_with("GET") && request.contains(UNET);
    assert_eq!(requests.iter().filter(fetched).count(), 1, "{requests:#?}");
    // The lock lies where Python looks for it.
    let locks = fs::read_dir(world.cache.path().join(".locks/models--owner--tiny")).unwrap();
    assert!(locks.count() > 5);
}

#[test]
fn names_of_any_letters_are_fetched() {
    let (world, config) = singles();
    let name = "my st\u{fc}le #1 50%.safetensors";
    fs::rename(world.files.path().join("tiny.safetensors"), world.files.path().join(name)).unwrap();
    let options = OpenOptions { changes: config, ..world.options() };
    let source = Source::Hub { repo: REPO.into(), revision: None, file: Some(name.into()) };
    load(&Checkpoint::open(&source, &options).unwrap());
}

/// The name of the variable that tells the child of the next test what to expect.
const EXPECT: &str = "ATTNMAP_TEST_EXPECT";

/// Opens `owner/tiny` with nothing but the environment; run by the test below in a process of its
/// own.
#[test]
#[ignore = "run by the_environment_is_honoured"]
fn opens_from_the_environment() {
    let Ok(expected) = std::env::var(EXPECT) else { return };
    match Checkpoint::open(&REPO.parse().unwrap(), &OpenOptions::default()) {
        Ok(checkpoint) => assert_eq!(expected, checkpoint.id),
        Err(error) => assert!(error.to_string().contains(&expected), "{error}"),
    }
}

#[test]
fn the_environment_is_honoured() {
    let world = World::new();
    world.server.set(Behaviour { gate: Some((401, "GatedRepo", "secret")), ..Default::default() });
    let home = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    let check = |expected: &str, variables: &[(&str, &str)]| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "hub::opens_from_the_environment", "--include-ignored", "--test-threads=1"]);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if ["HF_", "HUGGING", "XDG_CACHE", "TRANSFORMERS"].iter().any(|start| name_text.starts_with(start)) {
                child.env_remove(name);
            }
        }
        child.env(EXPECT, expected).env("HF_ENDPOINT", &world.server.address).env("HF_HOME", home.path());
        child.envs(variables.iter().copied());
        let output = child.output().unwrap();
        assert!(output.status.success(), "{variables:?}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    };
    check("gated", &[]);
    check("gated", &[("HF_TOKEN", "wrong")]);
    check("HF_HUB_OFFLINE is set", &[("HF_TOKEN", "secret"), ("HF_HUB_OFFLINE", "1")]);
    check(REPO, &[("HF_TOKEN", "secret")]);
    assert!(home.path().join("hub/models--owner--tiny/refs/main").exists());
    check(REPO, &[("HF_HUB_OFFLINE", "yes")]);
    let cache = other.path().to_str().unwrap();
    check("HF_HUB_OFFLINE is set", &[("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", cache)]);
    // The token that a login left behind.
    fs::write(home.path().join("token"), "secret\n").unwrap();
    check(REPO, &[("HF_HUB_CACHE", cache)]);
    assert!(other.path().join("models--owner--tiny").exists());
    check("HF_ENDPOINT is not a URL", &[("HF_ENDPOINT", "nowhere")]);
    check(REPO, &[("HF_ENDPOINT", &format!(" {}/ ", world.server.address))]);
    check("HF_HUB_OFFLINE is set", &[("HF_HUB_OFFLINE", "true"), ("HF_HUB_CACHE", "/nowhere")]);
    check("TRANSFORMERS_OFFLINE is set", &[("TRANSFORMERS_OFFLINE", "ON"), ("HF_HUB_CACHE", "/nowhere")]);
    check(REPO, &[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]);

    // A token is stripped wherever it stands; the older name counts where the other is empty.
    fs::write(home.path().join("token"), "\n").unwrap();
    check("gated", &[]);
    check("gated", &[("HF_TOKEN", " \n")]);
    for token in ["secret\n", " secret", "\tsecret\r\n"] {
        check(REPO, &[("HF_TOKEN", token)]);
        check(REPO, &[("HF_TOKEN", ""), ("HUGGING_FACE_HUB_TOKEN", token)]);
    }
    check("gated", &[("HF_TOKEN", "secret"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_HUB_CACHE", cache)]);
    check("HF_TOKEN holds a space, a quotation mark or a character", &[("HF_TOKEN", "sec ret")]);
    check("HUGGING_FACE_HUB_TOKEN holds", &[("HUGGING_FACE_HUB_TOKEN", "\u{201c}secret\u{201d}")]);
    let file = home.path().join("my token");
    fs::write(&file, "sec\u{a0}ret").unwrap();
    check("my token holds a space", &[("HF_TOKEN_PATH", file.to_str().unwrap())]);

    // Paths are read as Python reads them.
    let place = TempDir::new().unwrap();
    let path = place.path().to_str().unwrap();
    let known = [("HF_TOKEN", "secret"), ("HOME", path), ("PLACE", path)];
    let expanded = [("HF_HOME", "~/a"), ("HF_HUB_CACHE", "${PLACE}/b"), ("HUGGINGFACE_HUB_CACHE", "$PLACE/c")];
    for variable in expanded {
        check(REPO, &[&known[..], &[variable]].concat());
    }
    check(REPO, &[&known[..], &[("HF_HOME", ""), ("XDG_CACHE_HOME", "~/d")]].concat());
    check(REPO, &[&known[..], &[("HF_HOME", "")]].concat());
    for folder in ["a/hub", "b", "c", "d/huggingface/hub", ".cache/huggingface/hub"] {
        assert!(place.path().join(folder).join("models--owner--tiny/refs/main").exists(), "{folder}");
    }
    fs::write(place.path().join("t"), "secret\n").unwrap();
    check(REPO, &[("HOME", path), ("HF_TOKEN_PATH", "~/t")]);
}
