// The image with the overlay: what is painted on it, the colour bar and the caption.
const pictures = new Map(); // address -> image element, once it is decoded
// A picture that can be drawn, or null until it can; then everything is drawn again.
function pictureOf(src) {
  if (!pictures.has(src)) loadPicture(src).then(() => set({}));
  return pictures.get(src);
}
async function loadPicture(src) {
  const image = new Image();
  pictures.set(src, null);
  image.src = src;
  try {
    await image.decode();
    pictures.set(src, image);
  } catch {
    /* a damaged picture stays away */
  }
}

// The kept estimate of the image at the end of a part of the steps. It is the last one up to there,
// as `attnmap animate` takes it, or the first that was kept. The last step's is the image itself.
function estimateFor({a, b}) {
  if (!S.estimate || !GROUPS || !RUN.estimates.length || b >= GROUPS - 1) return null;
  const end = RUN.stepGroups[b][1];
  return RUN.estimates.findLast((e) => e.step <= end) || RUN.estimates[0];
}
// The picture below the maps.
let FINISHED = '';
function belowMaps() {
  if (S.begun) return {src: RUN.start.src, kept: null};
  const kept = tiesOn() || (S.show !== 'looked' && S.show !== 'image') ? null : estimateFor(looking());
  return {src: kept ? kept.src : FINISHED, kept};
}

// Size of the canvas that the overlay is painted at; the browser smooths the rest.
function overlaySize() {
  const {width, height} = RUN.image;
  const k = Math.min(1024 / Math.max(width, height), Math.max(1, 512 / Math.min(width, height)));
  return {W: Math.max(1, Math.round(width * k)), H: Math.max(1, Math.round(height * k))};
}
const upsampled = new Map();
function upsample(key, map, grid, W, H) {
  const name = [key, W, H, S.cells].join('|');
  if (!upsampled.has(name)) {
    if (upsampled.size > 40) upsampled.clear();
    upsampled.set(
      name,
      S.cells
        ? nearest(map, grid.height, grid.width, H, W)
        : clampAtZero(bicubic(map, grid.height, grid.width, H, W).slice()),
    );
  }
  return upsampled.get(name);
}
const sampled = new Map(); // pixels of the pictures below
function sample(src, W, H) {
  const key = src.length + src.slice(-64) + W + 'x' + H;
  if (!sampled.has(key)) {
    const picture = pictureOf(src);
    if (!picture) return null;
    if (sampled.size > 60) sampled.clear();
    sampled.set(key, pixelsOf(picture, W, H));
  }
  return sampled.get(key);
}

// What lies on the image: layers with the top of their scale, or nothing.
function layers(W, H) {
  if (tiesOn()) {
    const place = tiedMap();
    return place ? [{values: upsample(place.key, place.map, place.ties, W, H), max: place.max}] : [];
  }
  if (S.show === 'without') return [];
  return shown().flatMap((entry) => {
    const layer = layerOf(entry);
    return layer
      ? [{values: upsample(layer.key + '|' + entry.index, layer.map, GRID, W, H), max: layer.max, hue: hueOf(entry)}]
      : [];
  });
}

// Paints image and overlay onto a canvas of W x H; clears it where the image below is to be seen as
// it is.
function paintOverlay(canvas, W, H) {
  if (canvas.width !== W || canvas.height !== H) {
    canvas.width = W;
    canvas.height = H;
  }
  const context = canvas.getContext('2d');
  const base = sample(belowMaps().src, W, H);
  const other = differing();
  context.clearRect(0, 0, W, H);
  if (!base) return;
  const image = context.createImageData(W, H);
  const style = tiesOn() ? 'heat' : S.style;
  if (other && S.differ) {
    const apart = sample(other.src, W, H);
    if (!apart) return;
    const values = Float32Array.from({length: W * H}, (_, i) =>
      Math.max(0, ...[0, 1, 2].map((c) => Math.abs(base.pixels[4 * i + c] - apart.pixels[4 * i + c]))),
    );
    paintStyle(image.data, base, [{values, max: Math.max(1, maxOf(values))}], {
      style: 'heat',
      palette: S.palette,
      opacity: 0.85,
      threshold: S.threshold,
    });
  } else {
    const list = layers(W, H);
    if (!list.length || style === 'contour') return;
    const entry = shown()[0];
    paintStyle(image.data, base, list, {
      style,
      palette: tiesOn() ? S.palette : paletteOf(entry),
      opacity: S.opacity,
      threshold: S.threshold,
    });
  }
  context.putImageData(image, 0, 0);
}

// Lines of maps, names of words, and the marks of a place, at W x H.
function paintMarks(context, W, H, unit) {
  context.clearRect(0, 0, W, H);
  context.lineJoin = context.lineCap = 'round';
  const list = S.show === 'without' ? [] : shown();
  const lines = linesOf(S.style, paletteOf(list[0]), S.threshold);
  if (list.length && lines.length) {
    const longest = Math.max(GRID.height, GRID.width);
    const k = S.cells ? 1 : Math.max(1, Math.min(8, Math.ceil(128 / longest)));
    const h = GRID.height * k;
    const w = GRID.width * k;
    for (const entry of list) {
      const layer = layerOf(entry);
      if (!layer) continue;
      const grid = S.cells ? layer.map : bicubic(layer.map, GRID.height, GRID.width, h, w);
      for (const {level, colour} of lines) {
        const path = contour(grid, h, w, level * layer.max);
        for (const [style, width] of [
          ['rgb(0 0 0 / 0.7)', 5.6],
          [css(list.length > 1 ? hueOf(entry) : colour), 2.6],
        ]) {
          context.strokeStyle = style;
          context.lineWidth = width * unit;
          context.beginPath();
          for (const [x0, y0, x1, y1] of path) {
            context.moveTo((x0 / w) * W, (y0 / h) * H);
            context.lineTo((x1 / w) * W, (y1 / h) * H);
          }
          context.stroke();
        }
      }
    }
  }
  paintLabels(context, W, H, unit, list);
  const region = S.box || S.probe;
  const kx = W / RUN.image.width;
  const ky = H / RUN.image.height;
  if (!region) return;
  if (region.w > 1 || region.h > 1) {
    for (const [style, dash] of [
      ['rgb(255 255 255 / 0.9)', []],
      ['rgb(20 18 16)', [5 * unit, 4 * unit]],
    ]) {
      context.setLineDash(dash);
      context.strokeStyle = style;
      context.lineWidth = 1.5 * unit;
      context.strokeRect(region.x * kx, region.y * ky, region.w * kx, region.h * ky);
    }
    context.setLineDash([]);
  } else if (S.box || region.keyboard) {
    const x = (region.x + 0.5) * kx;
    const y = (region.y + 0.5) * ky;
    for (const [style, width] of [
      ['rgb(255 255 255 / 0.95)', 4],
      ['rgb(20 18 16)', 1.5],
    ]) {
      context.strokeStyle = style;
      context.lineWidth = width * unit;
      context.beginPath();
      context.arc(x, y, 7 * unit, 0, 7);
      context.stroke();
    }
  }
}

// Names of the shown words at their peaks.
function paintLabels(context, W, H, unit, list) {
  if (S.show !== 'looked') return;
  const maps = view();
  const labelled = list
    .map((entry) => ({entry, fact: entryFacts(maps, entry)}))
    .filter((l) => l.fact.peak > 0)
    .sort((p, q) => q.fact.peak - p.fact.peak)
    .slice(0, 8);
  const size = 13 * unit;
  const pad = 5 * unit;
  const placed = [];
  context.font = `600 ${size}px ui-sans-serif, system-ui, sans-serif`;
  context.textBaseline = 'middle';
  for (const {entry, fact} of labelled) {
    const name = nameOf(entry);
    const text = name.length > 24 ? name.slice(0, 23) + '…' : name;
    const x = fact.x * W;
    const y = fact.y * H;
    const w = context.measureText(text).width + 2 * pad;
    const h = size + 1.2 * pad;
    const spots = [
      [x - w / 2, y - h - 7 * unit],
      [x + 9 * unit, y - h / 2],
      [x - w - 9 * unit, y - h / 2],
      [x - w / 2, y + 7 * unit],
    ];
    const fits = ([l, t]) =>
      l >= 2 &&
      t >= 2 &&
      l + w <= W - 2 &&
      t + h <= H - 2 &&
      !placed.some((p) => l < p[0] + p[2] && p[0] < l + w && t < p[1] + p[3] && p[1] < t + h);
    const spot = spots.find(fits);
    const colour = S.locked.includes(entry.index) && list.length > 1 ? css(hueOf(entry)) : 'rgb(28 27 25)';
    context.fillStyle = 'rgb(255 255 255 / 0.95)';
    context.beginPath();
    context.arc(x, y, 4 * unit, 0, 7);
    context.fill();
    context.fillStyle = colour;
    context.beginPath();
    context.arc(x, y, 2.5 * unit, 0, 7);
    context.fill();
    if (!spot) continue;
    placed.push([spot[0], spot[1], w, h]);
    context.fillStyle = 'rgb(251 250 247 / 0.92)';
    context.beginPath();
    if (context.roundRect) context.roundRect(spot[0], spot[1], w, h, 3 * unit);
    else context.rect(spot[0], spot[1], w, h);
    context.fill();
    context.fillStyle = colour;
    context.fillText(text, spot[0] + pad, spot[1] + h / 2 + 0.5 * unit);
  }
}

function stagePanel() {
  const source = $('source');
  source.hidden = false;
  source.removeAttribute('id');
  source.removeAttribute('class');
  FINISHED = source.src;
  const overlay = el('canvas', {class: 'overlay', 'aria-hidden': 'true'});
  const marks = el('canvas', {class: 'marks', 'aria-hidden': 'true'});
  const without = el('img', {class: 'without', alt: '', hidden: true});
  const border = el('i', {class: 'border', hidden: true});
  const frame = el(
    'div',
    {
      class: 'frame',
      tabIndex: 0,
      role: 'application',
      'aria-label':
        'Image. Arrow keys move a point, shift and arrows stretch a box, Enter keeps it, Escape lets go; ' +
        'the words there are ranked in the table.',
    },
    source,
    overlay,
    without,
    border,
    marks,
  );
  frame.style.aspectRatio = RUN.image.width + ' / ' + RUN.image.height;
  document.documentElement.style.setProperty('--ratio', RUN.image.width / RUN.image.height);
  frame.append(...pointerParts(frame));
  const bar = el('canvas', {class: 'colourbar', width: 512, height: 1, 'aria-hidden': 'true'});
  const ticks = el('div', {class: 'ticks'});
  const legend = el('div', {class: 'legend'});
  const caption = el('figcaption', {class: 'caption'});
  const warning = el('p', {class: 'notice', hidden: true});
  const {modes, below} = causalBar();
  const tools = toolbar(source);
  const tied = tiesBar();
  const rule = el('div', {class: 'scale'}, legend, bar, ticks);
  const figure = el(
    'figure',
    {class: 'stage', 'aria-label': 'Image and attention'},
    frame,
    el('div', {class: 'under'}, el('div', {class: 'modes'}, modes, tied, tools), below, rule, caption, warning),
  );

  let painted = '';
  listeners.push(() => {
    const list = shown();
    const {W, H} = overlaySize();
    const {src, kept} = belowMaps();
    const other = differing();
    const ready = Boolean(pictureOf(src));
    const key = JSON.stringify([
      list.map((e) => e.index),
      S.locked,
      view().key,
      S.style,
      S.palette,
      S.opacity,
      S.threshold,
      S.scale,
      S.cells,
      S.show,
      S.differ,
      S.ties,
      tiedMap()?.key,
      ready && src.slice(-64) + src.length,
      other && Boolean(pictureOf(other.src)),
      other && other.word,
    ]);
    if (key !== painted) {
      painted = key;
      paintOverlay(overlay, W, H);
      paintRule(list);
    }
    if (source.src !== src && ready) source.src = src;
    source.alt =
      (LOOK ? 'Picture that was looked at with the caption: ' : 'Image generated from the prompt: ') +
      RUN.prompt.slice(0, 300);
    without.hidden = border.hidden = !other || S.differ;
    if (other && without.src !== other.src) {
      without.src = other.src;
      without.alt = 'The same seed without ' + nameOf(focusEntry());
    }
    without.style.clipPath = `inset(0 0 0 ${splitOf(other)}%)`;
    border.style.left = splitOf(other) + '%';
    modes.hidden = tools.hidden = Boolean(tiesOn());
    caption.replaceChildren(...captionOf(list, kept));
    warning.hidden = !noticeText;
    warning.textContent = noticeText;
    noticeText = '';
    resize();
  });

  // The colour bar: what its ends mean.
  const paintRule = (list) => {
    const other = differing();
    const place = tiedMap();
    const none =
      (S.show === 'mattered' && !tiesOn() && !list.some(causalMap)) ||
      (S.show === 'without' && !(other && S.differ)) ||
      (!list.length && !tiesOn());
    rule.classList.toggle('none', none);
    if (none) {
      legend.textContent = ticks.textContent = '';
      return;
    }
    const context = bar.getContext('2d');
    const image = context.createImageData(512, 1);
    const entry = list[0] || null;
    const style = tiesOn() || other ? 'heat' : S.style;
    const colours = tiesOn() ? S.palette : paletteOf(entry);
    paintScale(image.data, list.length > 1, style, colours);
    // A style without colours of its own shows where its lines are, and a mask what it darkens.
    if (style === 'contour' || style === 'mask') image.data.fill(0);
    if (style === 'mask') for (let x = 0; x < 512 * S.threshold; x++) image.data.set([16, 16, 16, 217], 4 * x);
    for (const {level, colour} of linesOf(style, colours, S.threshold)) {
      for (let d = -2; d <= 2; d++)
        image.data.set([...colour, 255], 4 * Math.min(511, Math.max(0, Math.round(level * 511) + d)));
    }
    context.putImageData(image, 0, 0);
    bar.classList.toggle('lines', style === 'contour' || style === 'mask');
    const span = (texts) => ticks.replaceChildren(...texts.map((text) => el('span', {text})));
    if (tiesOn()) {
      span([0, 0.25, 0.5, 0.75, 1].map((t) => (place ? percent(t * place.max) : '')));
      legend.textContent = 'self-attention of the place on a cell, on this place’s own scale; it sums to 100 %';
      return;
    }
    if (other) {
      span(['the same', 'most different']);
      legend.textContent = 'how much both images differ';
      return;
    }
    const max = S.show === 'mattered' ? (causalMap(entry) ? causalTop(entry) : 0) : scaleMax(entry);
    const own = (S.scale === 'word' || (list.some((e) => e.negative) && !onlyNegative(list))) && list.length > 1;
    span([0, 0.25, 0.5, 0.75, 1].map((t) => (own ? Math.round(100 * t) + ' %' : percent(t * max))));
    if (S.show === 'mattered') {
      legend.textContent =
        'change of the prediction when the word is cut, against the prediction’s mean size' +
        (S.scale === 'word' ? '; each word on its own scale' : '; one scale for all tested words');
      return;
    }
    const special = list.some((e) => e.special);
    legend.replaceChildren(
      list.some((e) => e.negative) && S.scale !== 'word'
        ? el('strong', {
            class: 'warn',
            text:
              'Words of the negative prompt on a scale of their own' +
              (S.scale === 'steps' ? ', the same at all ' + CALL + 's' : '') +
              ': not comparable with the prompt’s',
          })
        : S.scale === 'word' || special
          ? el('strong', {
              class: 'warn',
              text:
                special && S.scale !== 'word'
                  ? 'Special tokens on their own scale: not comparable with words'
                  : 'Each word on its own scale: colours cannot be compared between words',
            })
          : el('span', {
              text:
                (sharedOut()
                  ? 'each place shared out among the words, up to the word’s highest attention'
                  : colourStandsFor()) +
                '; one scale for all words' +
                (S.scale === 'steps' ? ' and ' + CALL + 's' : ''),
            }),
    );
  };

  const resize = () => {
    const dpr = Math.min(3, window.devicePixelRatio || 1);
    const box = frame.getBoundingClientRect();
    const W = Math.max(1, Math.round(box.width * dpr));
    const H = Math.max(1, Math.round(box.height * dpr));
    if (marks.width !== W || marks.height !== H) {
      marks.width = W;
      marks.height = H;
    }
    paintMarks(marks.getContext('2d'), W, H, dpr * Math.max(1, box.width / 620));
  };
  new ResizeObserver(resize).observe(frame);
  return figure;
}

// The lines below the image: what is seen; and before anything is chosen, what can be done.
const TOUCH = matchMedia('(hover: none)').matches;
const HINT = TOUCH
  ? 'Tap a word to light it, tap the image to rank the words there, drag sideways for a box.'
  : 'Point at a word or at the image; a click keeps it; drag a box on the image; ? lists the keys.';
function captionOf(list, kept) {
  if (tiesOn()) return [el('b', {text: tiedInWords()[0]}), tiedInWords()[1]];
  const behind = S.begun
    ? ' Behind it, the picture that the run set out from.'
    : kept
      ? ' Behind it, the model’s estimate of the image at step ' + (kept.step + 1) + '.'
      : '';
  const untouched = !S.locked.length && S.hover < 0 && !S.box && !S.probe;
  const hint = untouched ? el('span', {class: 'hint', text: HINT}) : '';
  if (untouched && S.show === 'looked' && list.length)
    return [
      el('b', {text: 'Where the model looked for ' + quoted(list.map(nameOf))}),
      '. ',
      behind && behind + ' ',
      hint,
    ];
  if (!list.length) {
    const name = S.begun
      ? 'The picture that the run set out from'
      : kept
        ? 'The model’s estimate of the image at step ' + (kept.step + 1)
        : LOOK
          ? 'The picture'
          : 'The image';
    return [el('b', {text: name}), '. ', hint];
  }
  if (S.show === 'mattered' || S.show === 'without') return causalInWords(list[list.length - 1]);
  const words = list.map(nameOf);
  return [
    el('b', {
      text:
        (list.every((e) => e.probe) ? 'Where the model would look for ' : 'Where the model looked for ') +
        quoted(words),
    }),
    list.length === 1 ? ': ' + inNumbers(entryFacts(view(), list[0])) : '',
    '. ',
    sentence(viewInWords(list)) + '.',
    behind,
    list.some((e) => e.probe)
      ? ' A probe is not in the prompt: its value is what it would take from the prompt’s tokens.'
      : '',
    S.style === 'contour'
      ? ' Lines at 20, 40, 60 and 80 % of the scale.'
      : S.style === 'mask'
        ? ` In colour where it reaches ${Math.round(100 * S.threshold)} % of the scale.`
        : '',
  ];
}
const inNumbers = (fact) => `share ${percent(fact.share)}, peak ${percent(fact.peak)}, area ${percent(fact.area)}`;
const quoted = (words) => listed(words.map((w) => '“' + w + '”'));
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
