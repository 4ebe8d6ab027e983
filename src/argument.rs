//! Arguments by name, in errors and advice: as the library calls them, or as the program that runs
//! writes them.

use std::fmt::{self, Display, Formatter};
use std::sync::OnceLock;

/// How the program that runs writes an argument of this name, where it has one.
type Spelling = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Set once, before any work, as a logger is. A message is text from the moment that it is made. So
/// what a user typed into it can never be taken for an argument's name.
static SPELLING: OnceLock<Spelling> = OnceLock::new();

/// An argument that a message names. It is written as in code, `` `steps` ``, unless the program
/// [spells](spell_with) it otherwise, as the command line does: `--steps`. The alternate form
/// `{:#}` leaves the backticks out.
///
/// ```
/// use attnmap::argument::STEPS;
///
/// assert_eq!(format!("raise {STEPS}"), "raise `steps`");
/// assert_eq!(format!("{STEPS:#}: 0 given"), "steps: 0 given");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Argument(&'static str);

/// Has every message that is made from now on write arguments as `spelling` says. It is given
/// [their names](Argument::name); those for which it has no word stay as they are. The first call
/// in a process counts.
pub fn spell_with(spelling: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
    let _ = SPELLING.set(Box::new(spelling));
}

impl Argument {
    /// The name, e.g. `keep_queries`.
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// As an option of a command line that attnmap writes for users to run, e.g. `--keep-queries`.
    pub fn option(self) -> String {
        format!("--{}", self.0.replace('_', "-"))
    }
}

impl Display for Argument {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match SPELLING.get().and_then(|spelling| spelling(self.0)) {
            Some(spelled) => f.write_str(&spelled),
            None if f.alternate() => f.write_str(self.0),
            None => write!(f, "`{}`", self.0),
        }
    }
}

/// The argument of this name.
pub fn named(name: &str) -> Option<Argument> {
    ALL.iter().copied().find(|argument| argument.0 == name)
}

/// The constants, and a list of them.
macro_rules! arguments {
    ($($constant:ident = $name:literal: $about:literal;)*) => {
        $(#[doc = $about] pub const $constant: Argument = Argument($name);)*

        /// Every argument that a message of the library can name.
        pub const ALL: &[Argument] = &[$($constant),*];
    };
}

arguments! {
    AGGREGATE = "aggregate": "Which sites, heads and steps a map is made of.";
    AT = "at": "A point of the image.";
    BATCH = "batch": "Images per call of the denoiser.";
    BIND = "bind": "Pairs of a colour and a thing.";
    BOX = "box": "A rectangle of the image.";
    BUDGET = "budget": "How many runs an experiment may take.";
    BY = "by": "What is selected: words or tags.";
    CLIP_SKIP = "clip_skip": "Last layers of CLIP that are left out.";
    COLORMAP = "colormap": "The colours of a map.";
    CONCEPTS = "concepts": "Concepts whose maps are kept.";
    CONFIG = "config": "Configs for a checkpoint that is one file.";
    COUNTERFACTUAL = "counterfactual": "The same seed with a word changed.";
    CROP = "crop": "SDXL's crop.";
    CUT = "cut": "How a word's influence is taken away.";
    DEVICE = "device": "Where tensors live.";
    DTYPE = "dtype": "The type of the weights.";
    EMBEDDING = "embedding": "A textual inversion.";
    EMPHASIS = "emphasis": "Whether brackets in a prompt are weights.";
    ENCODER = "encoder": "Whose tokens of a word a map is of.";
    EXPECT = "expect": "What an image should show.";
    FORCE = "force": "Whether a file of that name is replaced.";
    GUIDANCE = "guidance": "The guidance scale.";
    HALF = "half": "The half of guidance that maps are of.";
    HEADS = "heads": "Heads that a map is made of.";
    HOST = "host": "The address to listen at.";
    IGNORE_MEMORY = "ignore_memory": "Whether the estimate of memory is passed over.";
    IMAGE = "image": "A picture that is there, or a folder of them.";
    IMAGES = "images": "How many images.";
    INDEX = "index": "A gallery's page.";
    INIT = "init": "The picture to start from.";
    INPUT = "input": "The inputs that an attribution is to.";
    K = "k": "How many components.";
    KEEP_GOCA = "keep_goca": "Whether what GoCA's maps are made of is kept.";
    KEEP_QUERIES = "keep_queries": "Grids whose queries and keys are kept.";
    LATENTS = "latents": "The noise to start from.";
    LAYERS = "layers": "Layers that a map is made of.";
    LEVELS = "levels": "Noise levels of a look.";
    LONG = "long": "Whether a long prompt is read in chunks.";
    LORA = "lora": "A LoRA.";
    MASK = "mask": "The part of the picture that is drawn anew.";
    METHOD = "method": "The method of an attribution.";
    MODEL = "model": "The checkpoint.";
    NO_STEP_MAPS = "no_step_maps": "Whether maps of single steps are left out.";
    OPACITY = "opacity": "The opacity of an overlay.";
    ORIGINAL_SIZE = "original_size": "SDXL's original size.";
    OUT = "out": "Where files go.";
    OVERLAY_SIZE = "overlay_size": "The height of an overlay.";
    PACK = "pack": "One file of a gallery.";
    PORT = "port": "The port to listen at.";
    PREDICTION = "prediction": "What the network was trained to predict.";
    PROBE = "probe": "Words that are asked about and not in the prompt.";
    PROMPT = "prompt": "The prompt.";
    PROMPTS = "prompts": "A list of prompts.";
    QUERIES = "queries": "Whose queries a map is of.";
    QUERY_MEMORY = "query_memory": "The memory that queries may take.";
    REGION = "region": "A picture of a place.";
    REPLACE = "replace": "A word and what stands in its place.";
    RESOLUTION = "resolution": "Site grids that a map is made of.";
    RUN = "run": "A run's folder.";
    SCALE = "scale": "What the brightest colour of a map stands for.";
    SCENES = "scenes": "A folder of captioned pictures with masks.";
    SCHEDULER = "scheduler": "The sampler.";
    SEED = "seed": "The seed.";
    SEEDS = "seeds": "Several seeds.";
    SELF_ATTENTION = "self_attention": "Grids whose self-attention is kept.";
    SELF_MEMORY = "self_memory": "The memory that self-attention may take.";
    SHAPLEY = "shapley": "How many orders Shapley values are estimated from.";
    SHARD = "shard": "A part of a gallery's cells.";
    SHEET = "sheet": "A gallery's contact sheet.";
    SIZE = "size": "The size of the image.";
    SPACING = "spacing": "How timesteps are spaced.";
    STEPS = "steps": "How many steps.";
    STEPS_WINDOW = "steps_window": "Steps that a map is made of.";
    STRENGTH = "strength": "How much of the picture to start from is drawn anew.";
    STYLE = "style": "The style of an overlay.";
    TEXT_QUERIES = "text_queries": "Whether the text's own queries are kept.";
    THREADS = "threads": "Threads of the process.";
    THRESHOLD = "threshold": "The share of a map's peak that its outline is drawn at.";
    TRACE_NEGATIVE = "trace_negative": "Whether the unconditional half is recorded.";
    VARIANT = "variant": "The variant of the weights, e.g. `fp16`.";
    VERSUS = "versus": "Two words whose maps are compared.";
    WEIGHT = "weight": "A weight of a word.";
    WORD = "word": "One word of the prompt.";
    WORDS = "words": "Words of the prompt.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_in_backticks_and_options_in_hyphens() {
        assert_eq!(format!("{KEEP_QUERIES}, {KEEP_QUERIES:#}"), "`keep_queries`, keep_queries");
        assert_eq!(KEEP_QUERIES.option(), "--keep-queries");
        let mut names: Vec<&str> = ALL.iter().map(|argument| argument.name()).collect();
        assert!(names.is_sorted() && names.len() > 70, "{names:?}");
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert_eq!((named("steps"), named("Steps")), (Some(STEPS), None));
    }
}
