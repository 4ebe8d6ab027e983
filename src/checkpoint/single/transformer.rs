//! A file that holds the transformer of FLUX.1 or Z-Image, safetensors or GGUF. All other parts,
//! and all configs, are read from the folder that `--config` names.

use super::opened::{Places, Single, summarised};
use super::recognise;
use crate::argument::CONFIG;
use crate::checkpoint::config::{Family, ModelIndex};
use crate::checkpoint::part::Part;
use crate::checkpoint::store::Store;
use crate::checkpoint::weights::{self, TransformerKind, WeightFile};
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// Opens `file`, which lies at `path` and holds a transformer of `kind`. All other parts are those
/// of `folder`, in its `variant`.
pub(super) fn open(
    path: &Path,
    file: WeightFile,
    kind: TransformerKind,
    folder: Option<&Path>,
    variant: Option<&str>,
) -> Result<Single> {
    recognise::refuse_quantised(&file).map_err(|refusal| refusal.about(path))?;
    let name = match kind {
        TransformerKind::Flux => "FLUX.1",
        TransformerKind::ZImage => "Z-Image",
    };
    let fault = |reason: String| Error::Weights { file: path.to_path_buf(), reason };
    let Some(folder) = folder else {
        return Err(fault(format!(
            "holds a transformer of {name}; give the folder of {name} that has its text encoders and autoencoder with \
             {CONFIG}"
        )));
    };
    let store = Store::Folder(folder.into());
    let index = store.read_required("model_index.json", "the pipeline")?;
    let index = ModelIndex::from_json(&index, &store.path("model_index.json"))?;
    let fits = match kind {
        TransformerKind::Flux => index.family == Family::Flux,
        TransformerKind::ZImage => index.family == Family::ZImage,
    };
    if !fits {
        return Err(Error::argument(
            CONFIG,
            format!(
                "{} is a folder of {}, and the file is a transformer of {name}",
                folder.display(),
                index.class_name
            ),
        ));
    }
    let others: Vec<Part> = index.parts().iter().copied().filter(|part| *part != Part::Transformer).collect();
    let files = weights::part_files(&store, &others, variant)?;
    let (transformer, left) = weights::original_places(kind, 0, &file);
    Ok(Single {
        store: store.clone(),
        ignored: summarised(&left),
        file: Arc::new(file),
        places: Places::from([(Part::Transformer.folder(), transformer)]),
        folder: Some((store, files)),
    })
}
