// What is looked at: two runs, one word, one choice of steps and layers, one box, all of them the
// same for both.
const S = {
  // Runs: {run, prompt, words, picture, width, height, grid, maps, layers, steps}.
  a: null,
  b: null,
  live: null, // the run that forms now, like b, with {step, of}
  compared: null, // {pairs, line, sentences}
  word: null, // the kept word, by its name in B
  hover: null, // that under the pointer
  step: null, // one step from 1, or all
  layers: null, // a layer, or the run's own choice
  box: null, // {x, y, w, h} as shares of the image
  show: 'slider',
  split: 50,
  // Jobs.
  running: null,
  waiting: [],
  progress: null,
  pinned: null,
  history: [],
  hidden: new Set(),
  tests: null,
};
const listeners = [];
let queued = false;
// Changes what is looked at; all parts of the page are brought up to date once a frame.
function set(patch) {
  Object.assign(S, patch);
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    for (const listener of listeners) listener();
  });
}

const shownB = () => S.live || S.b;
const indexIn = (side, label) => (side ? side.words.findIndex((word) => word.label === label) : -1);
const litWord = () => S.hover || S.word;
// The place of the lit word among the words of A or B; -1 where it is not.
function wordIn(which) {
  const word = litWord();
  if (which === 'b') return indexIn(shownB(), word);
  if (!S.live && S.compared && S.b) {
    const at = indexIn(S.b, word);
    const pair = S.compared.pairs.find((p) => p.b === at && at >= 0);
    if (pair) return pair.a === null ? -1 : pair.a;
  }
  return indexIn(S.a, word);
}
function mapOf(side, at) {
  if (!side || at < 0) return null;
  const [height, width] = side.grid;
  const cells = height * width;
  return side.maps.subarray(at * cells, (at + 1) * cells);
}
// The top of the colours: one scale for both runs and all words.
function topOf(...sides) {
  let top = 1e-12;
  for (const side of sides) if (side) for (const value of side.maps) if (value > top) top = value;
  return top;
}
// The word that is kept before any is chosen: that with the highest map.
function tallest(side) {
  let best = null;
  let height = -1;
  side.words.forEach((word, i) => {
    const top = maxOf(mapOf(side, i));
    if (top > height) {
      height = top;
      best = word.label;
    }
  });
  return best;
}

// A run from what the server says of it.
async function sideOf(json, known) {
  const picture = json.image
    ? await loaded(json.image)
    : known && known.run === json.run
      ? known.picture
      : await loaded(runPath(json.run, 'image'));
  return {...json, picture, maps: floats(json.maps)};
}
const fetchSide = async (run, known) =>
  sideOf(await ask('side', {run, layers: S.layers, steps: S.step === null ? null : [S.step, S.step]}), known);

let asked = 0; // the last request wins
// The choice of steps and layers whose maps are there, which both runs have.
const WHOLE = {step: null, layers: null};
let there = WHOLE;
// Shows two runs by their names.
async function show(a, b) {
  const now = ++asked;
  const fetchBoth = () => Promise.all([a ? fetchSide(a, S.a) : null, b ? fetchSide(b, S.b) : null]);
  try {
    let sides;
    try {
      sides = await fetchBoth();
    } catch (error) {
      if (now !== asked) return;
      if (S.step === null && S.layers === null) throw error;
      // One of them has fewer steps or other layers.
      Object.assign(S, WHOLE);
      sides = await fetchBoth();
      announce('All steps, and each run’s own choice of layers');
    }
    if (now !== asked) return;
    const [sideA, sideB] = sides;
    const compared = a && b ? await ask('changes', {a, b}) : null;
    if (now !== asked) return;
    there = {step: S.step, layers: S.layers};
    set({a: sideA, b: sideB, compared, word: keep(sideB, compared, sideA), tests: null});
    if (b) {
      ask(runPath(b, 'tests')).then(
        (tests) => {
          if (S.b && S.b.run === b) set({tests});
        },
        () => {},
      );
      if (a) sentences(a, b);
    }
  } catch (error) {
    if (now === asked) set(there);
    complain(error.message);
  }
}
async function sentences(a, b) {
  try {
    const whole = await ask('changes', {a, b, sentences: true});
    if (S.a && S.b && S.a.run === a && S.b.run === b) set({compared: whole});
  } catch {
    /* the pictures are there without them */
  }
}
// The kept word in a new B: the same, what stands in its place, or the one that stands out.
function keep(b, compared, a) {
  if (!b) return S.word;
  if (indexIn(b, S.word) >= 0) return S.word;
  const at = a ? indexIn(a, S.word) : -1;
  const pair = compared && at >= 0 ? compared.pairs.find((p) => p.a === at) : null;
  return pair && pair.b !== null ? b.words[pair.b].label : b.words.length ? tallest(b) : null;
}
// Other steps or layers, for both; what one of them has not is said, and not chosen.
let refusal = '';
async function choose(patch) {
  Object.assign(S, patch);
  set({});
  const now = ++asked;
  try {
    const [a, b] = await Promise.all([
      S.a && S.a.run ? fetchSide(S.a.run, S.a) : S.a,
      S.b && S.b.run ? fetchSide(S.b.run, S.b) : S.b,
    ]);
    if (now !== asked) return;
    there = {step: S.step, layers: S.layers};
    set({a, b});
    if (refusal && complaint && complaint.textContent === refusal) complain('');
    refusal = '';
  } catch (error) {
    if (now !== asked) return;
    set(there);
    refusal = error.message;
    complain(refusal);
  }
}

// What went wrong, in sight and for screen readers.
let complaint = null;
function complain(text) {
  if (!complaint) return;
  complaint.textContent = text;
  complaint.hidden = !text;
}
