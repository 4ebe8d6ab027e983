// The image with the overlay: drawing, the colour bar, the pointer and the keyboard on it, and its export as PNG.
const baseImages = new Map(); // step -> decoded estimate
function estimateFor(a, b) {
  if (!S.estimate || a !== b || !GROUPS) return null;
  const last = RUN.stepGroups[a][1];
  return RUN.estimates.find((e) => e.step === last) || RUN.estimates.find((e) => e.step >= RUN.stepGroups[a][0] && e.step <= last) || null;
}

// Size of the canvas that the overlay is painted at; the browser smooths the rest.
function overlaySize() {
  const {width, height} = RUN.image, k = Math.min(768 / Math.max(width, height), Math.max(1, 512 / Math.min(width, height)));
  return {W: Math.max(1, Math.round(width * k)), H: Math.max(1, Math.round(height * k))};
}
const upsampled = new Map();
function upsample(entry, W, H) {
  const maps = view(), key = [maps.key, entry.index, W, H, S.cells].join('|');
  if (!upsampled.has(key)) {
    const map = entryMap(maps, entry);
    if (upsampled.size > 40) upsampled.clear();
    upsampled.set(key, S.cells ? nearest(map, GRID.height, GRID.width, H, W) : clampAtZero(bicubic(map, GRID.height, GRID.width, H, W).slice()));
  }
  return upsampled.get(key);
}

// Paints the overlay of the shown words onto a canvas of W x H (heat and spotlight), or its lines (contour).
function paintOverlay(canvas, W, H) {
  if (canvas.width !== W || canvas.height !== H) { canvas.width = W; canvas.height = H; }
  const context = canvas.getContext('2d'), list = shown();
  context.clearRect(0, 0, W, H);
  if (tiesOn()) {
    const place = tiedMap();
    if (!place) return;
    const image = context.createImageData(W, H), {height, width} = place.ties;
    const values = S.cells ? nearest(place.map, height, width, H, W) : clampAtZero(bicubic(place.map, height, width, H, W).slice());
    paintPalette(image.data, values, place.max, S.palette, S.opacity);
    context.putImageData(image, 0, 0);
    return;
  }
  if (!list.length || S.style === 'contour') return;
  const layers = list.map((entry) => ({values: upsample(entry, W, H), max: scaleMax(entry), hue: hueOf(entry)}));
  const image = context.createImageData(W, H);
  if (S.style === 'spotlight') paintSpotlight(image.data, layers, S.opacity);
  else if (layers.length === 1) paintPalette(image.data, layers[0].values, layers[0].max, paletteOf(list[0]), S.opacity);
  else paintHues(image.data, layers, S.opacity);
  context.putImageData(image, 0, 0);
}

const LEVELS = [0.25, 0.5, 0.75];
function paintMarks(context, W, H, unit) {
  context.clearRect(0, 0, W, H);
  context.lineJoin = context.lineCap = 'round';
  const list = tiesOn() ? [] : shown();
  if (list.length && S.style === 'contour') {
    const longest = Math.max(GRID.height, GRID.width), k = S.cells ? 1 : Math.max(1, Math.min(8, Math.ceil(128 / longest)));
    const h = GRID.height * k, w = GRID.width * k;
    list.forEach((entry) => {
      const grid = S.cells ? entryMap(view(), entry) : bicubic(entryMap(view(), entry), GRID.height, GRID.width, h, w);
      const max = scaleMax(entry), colour = list.length === 1 && !S.locked.includes(entry.index) ? HUES[0] : hueOf(entry);
      LEVELS.forEach((level, i) => {
        const lines = contour(grid, h, w, level * max);
        for (const [style, width] of [['rgb(255 255 255 / 0.85)', 3 + i], [css(colour), 1 + 0.75 * i]]) {
          context.globalAlpha = S.opacity;
          context.strokeStyle = style;
          context.lineWidth = width * unit;
          context.beginPath();
          for (const [x0, y0, x1, y1] of lines) { context.moveTo((x0 / w) * W, (y0 / h) * H); context.lineTo((x1 / w) * W, (y1 / h) * H); }
          context.stroke();
        }
      });
      context.globalAlpha = 1;
    });
  }
  if (!tiesOn()) paintLabels(context, W, H, unit, list);
  const box = S.box || (S.probe && (S.probe.w > 1 || S.probe.h > 1) ? S.probe : null);
  const kx = W / RUN.image.width, ky = H / RUN.image.height;
  if (box) {
    for (const [style, dash] of [['rgb(255 255 255 / 0.9)', []], ['rgb(20 18 16)', [5 * unit, 4 * unit]]]) {
      context.setLineDash(dash);
      context.strokeStyle = style;
      context.lineWidth = 1.5 * unit;
      context.strokeRect(box.x * kx, box.y * ky, box.w * kx, box.h * ky);
    }
    context.setLineDash([]);
  } else if (S.probe && S.probe.keyboard) {
    const x = (S.probe.x + 0.5) * kx, y = (S.probe.y + 0.5) * ky;
    for (const [style, width] of [['rgb(255 255 255 / 0.9)', 4], ['rgb(20 18 16)', 1.5]]) {
      context.strokeStyle = style;
      context.lineWidth = width * unit;
      context.beginPath();
      context.arc(x, y, 7 * unit, 0, 7);
      context.stroke();
    }
  }
}

// Names at the peaks: of the shown words, or with nothing shown of the words that have a place of their own.
function paintLabels(context, W, H, unit, list) {
  const maps = view(), top = wordsMax(maps);
  const labelled = (list.length ? list : WORDS.filter((e) => entryFacts(maps, e).peak >= 0.5 * top && entryFacts(maps, e).area < 0.5))
    .map((entry) => ({entry, fact: entryFacts(maps, entry)})).filter((l) => l.fact.peak > 0)
    .sort((p, q) => q.fact.peak - p.fact.peak).slice(0, 8);
  const size = 13 * unit, pad = 5 * unit, placed = [];
  context.font = `600 ${size}px ui-sans-serif, system-ui, sans-serif`;
  context.textBaseline = 'middle';
  for (const {entry, fact} of labelled) {
    const name = nameOf(entry), text = name.length > 24 ? name.slice(0, 23) + '…' : name;
    const x = fact.x * W, y = fact.y * H, w = context.measureText(text).width + 2 * pad, h = size + 1.2 * pad;
    const spots = [[x - w / 2, y - h - 7 * unit], [x + 9 * unit, y - h / 2], [x - w - 9 * unit, y - h / 2], [x - w / 2, y + 7 * unit]];
    const fits = ([l, t]) => l >= 2 && t >= 2 && l + w <= W - 2 && t + h <= H - 2 && !placed.some((p) => l < p[0] + p[2] && p[0] < l + w && t < p[1] + p[3] && p[1] < t + h);
    const spot = spots.find(fits);
    const colour = S.locked.includes(entry.index) && list.length > 1 ? css(hueOf(entry)) : 'rgb(28 27 25)';
    context.fillStyle = 'rgb(255 255 255 / 0.95)';
    context.beginPath(); context.arc(x, y, 4 * unit, 0, 7); context.fill();
    context.fillStyle = colour;
    context.beginPath(); context.arc(x, y, 2.5 * unit, 0, 7); context.fill();
    if (!spot) continue;
    placed.push([spot[0], spot[1], w, h]);
    context.fillStyle = 'rgb(251 250 247 / 0.92)';
    context.beginPath();
    if (context.roundRect) context.roundRect(spot[0], spot[1], w, h, 3 * unit); else context.rect(spot[0], spot[1], w, h);
    context.fill();
    context.fillStyle = colour;
    context.fillText(text, spot[0] + pad, spot[1] + h / 2 + 0.5 * unit);
  }
}

function stagePanel() {
  const source = $('source');
  source.hidden = false;
  source.removeAttribute('id');
  const finished = source.src;
  const overlay = el('canvas', {class: 'overlay', 'aria-hidden': 'true'});
  const marks = el('canvas', {class: 'marks', 'aria-hidden': 'true'});
  const frame = el('div', {class: 'frame', tabIndex: 0, role: 'application',
    'aria-label': 'Image. Arrow keys move a point, shift and arrows stretch a box, Enter pins it, Escape lets go; the words there are ranked in the table.',
  }, source, overlay, marks);
  frame.style.aspectRatio = RUN.image.width + ' / ' + RUN.image.height;
  const bar = el('canvas', {class: 'colourbar', width: 512, height: 1, 'aria-hidden': 'true'});
  const ticks = el('div', {class: 'ticks'});
  const legend = el('div', {class: 'legend'});
  const caption = el('figcaption', {class: 'caption'});
  const warning = el('p', {class: 'notice', hidden: true});
  const figure = el('figure', {class: 'stage', 'aria-label': 'Image and attention'}, frame,
    el('div', {class: 'scale'}, legend, bar, ticks), caption, warning, toolbar());

  function toolbar() {
    const style = choice('Style', 'style', STYLES, S.style, (v) => set({style: v}));
    const palettes = el('select', {onchange: (e) => set({palette: e.target.value})},
      Object.keys(PALETTES).filter((name) => name !== 'difference').map((name) => el('option', {value: name, text: name})));
    const scale = el('select', {onchange: (e) => set({scale: e.target.value})},
      SCALES.filter(([k]) => k !== 'steps' || HAS_STEPS).map(([k, text]) => el('option', {value: k, text})));
    const opacity = el('input', {type: 'range', min: 0, max: 100, step: 1, oninput: () => set({opacity: opacity.value / 100})});
    const cells = check('True cells', S.cells, (v) => set({cells: v}), 'Show the grid’s own cells instead of the bicubic upsampling');
    const estimate = RUN.estimates.length ? check('Image at the step', S.estimate, (v) => set({estimate: v}), 'With a single step chosen, show the image as the model then saw it') : null;
    const begun = RUN.start ? check('Start picture', S.begun, (v) => set({begun: v}), 'Show the picture that the run set out from in place of the image') : null;
    const save = el('button', {class: 'quiet', type: 'button', text: 'Export PNG', onclick: () => exportPng(source)});
    listeners.push(() => {
      style.show(S.style); palettes.value = S.palette; scale.value = S.scale; cells.show(S.cells);
      opacity.value = Math.round(100 * S.opacity);
      if (estimate) estimate.show(S.estimate);
      if (begun) begun.show(S.begun);
    });
    return el('div', {class: 'toolbar'}, style, el('label', {}, el('span', {text: 'Colours'}), palettes),
      el('label', {}, el('span', {text: 'Scale'}), scale), el('label', {}, el('span', {text: 'Opacity'}), opacity), cells, estimate, begun, tiesChoice(), save);
  }

  // Pointer: move to rank the words there, drag for a box, click to let go of it.
  const at = (event) => {
    const box = frame.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * RUN.image.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * RUN.image.height);
    return {x: Math.min(RUN.image.width - 1, Math.max(0, x)), y: Math.min(RUN.image.height - 1, Math.max(0, y))};
  };
  const span = (p, q) => ({x: Math.min(p.x, q.x), y: Math.min(p.y, q.y), w: Math.abs(p.x - q.x) + 1, h: Math.abs(p.y - q.y) + 1});
  const isDrag = (box) => { // at least an eightieth of the image, so that a click is not a box
    const least = Math.max(2, Math.max(RUN.image.width, RUN.image.height) / 80);
    return box.w > least || box.h > least;
  };
  let start = null;
  frame.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    start = at(event);
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener('pointermove', (event) => {
    const p = at(event);
    if (start) { const box = span(start, p); set({probe: isDrag(box) ? box : {...p, w: 1, h: 1}, box: isDrag(box) ? null : S.box}); }
    else set({probe: {...p, w: 1, h: 1}});
  });
  frame.addEventListener('pointerup', (event) => {
    if (!start) return;
    const end = at(event), box = span(start, end);
    start = null;
    set({box: isDrag(box) ? box : tiesOn() ? {...end, w: 1, h: 1} : null});
    if (S.box) announce('Box pinned');
  });
  frame.addEventListener('pointercancel', () => { start = null; });
  frame.addEventListener('pointerleave', () => { if (!start) set({probe: null}); });
  frame.addEventListener('blur', () => { if (S.probe && S.probe.keyboard) set({probe: null}); });
  frame.addEventListener('keydown', (event) => {
    const move = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[event.key];
    const {width, height} = RUN.image, cw = Math.max(1, Math.round(width / GRID.width)), ch = Math.max(1, Math.round(height / GRID.height));
    const p = S.probe || {x: Math.floor(width / 2), y: Math.floor(height / 2), w: 1, h: 1};
    if (move && event.shiftKey) {
      set({probe: {...p, keyboard: true, w: Math.min(width - p.x, Math.max(1, p.w + move[0] * cw)), h: Math.min(height - p.y, Math.max(1, p.h + move[1] * ch))}});
    } else if (move) {
      set({probe: {...p, keyboard: true, x: Math.min(width - p.w, Math.max(0, p.x + move[0] * cw)), y: Math.min(height - p.h, Math.max(0, p.y + move[1] * ch))}});
    } else if (event.key === 'Enter' && S.probe) set({box: {x: p.x, y: p.y, w: p.w, h: p.h}});
    else return;
    event.preventDefault();
  });

  const scale = (list) => {
    const context = bar.getContext('2d'), entry = list[0] || null, image = context.createImageData(512, 1);
    const ramp = Float32Array.from({length: 512}, (_, i) => i / 511);
    if (tiesOn()) {
      const place = tiedMap();
      paintPalette(image.data, ramp, 1, S.palette, null);
      context.putImageData(image, 0, 0);
      ticks.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((t) => el('span', {text: place ? percent(t * place.max) : ''})));
      bar.classList.remove('lines');
      legend.replaceChildren(el('span', {text: 'self-attention of the place on a cell, on this place’s own scale; it sums to 100 %'}));
      return;
    }
    const max = scaleMax(entry);
    if (S.style === 'spotlight') paintSpotlight(image.data, [{values: ramp, max: 1}], S.opacity);
    else if (list.length > 1) paintHues(image.data, [{values: ramp, max: 1, hue: [120, 116, 108]}], S.opacity);
    else if (S.style === 'contour') { for (const l of LEVELS) for (let d = -1; d < 2; d++) image.data.set([...HUES[0], 255], 4 * (Math.round(l * 511) + d)); }
    else paintPalette(image.data, ramp, 1, paletteOf(entry), null);
    context.putImageData(image, 0, 0);
    const own = (S.scale === 'word' || list.some((e) => e.negative) && !onlyNegative(list)) && list.length > 1;
    ticks.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((t) => el('span', {text: own ? Math.round(100 * t) + ' %' : percent(t * max)})));
    bar.classList.toggle('lines', S.style === 'contour');
    const special = list.some((e) => e.special);
    legend.replaceChildren(list.some((e) => e.negative) && S.scale !== 'word'
      ? el('strong', {class: 'warn', text: 'Words of the negative prompt on a scale of their own' + (S.scale === 'steps' ? ', the same at all ' + CALL + 's' : '') + ': not comparable with the prompt’s'})
      : S.scale === 'word' || special
      ? el('strong', {class: 'warn', text: special && S.scale !== 'word' ? 'Special tokens on their own scale: not comparable with words' : 'Each word on its own scale: colours cannot be compared between words'})
      : el('span', {text: 'attention of a cell on the word’s token, one scale for all words' + (S.scale === 'steps' ? ' and ' + CALL + 's' : '')}));
  };

  const resize = () => {
    const dpr = Math.min(3, window.devicePixelRatio || 1), box = frame.getBoundingClientRect();
    const W = Math.max(1, Math.round(box.width * dpr)), H = Math.max(1, Math.round(box.height * dpr));
    if (marks.width !== W || marks.height !== H) { marks.width = W; marks.height = H; }
    paintMarks(marks.getContext('2d'), W, H, dpr * Math.max(1, box.width / 620));
  };
  let painted = '';
  listeners.push(() => {
    const list = shown(), {W, H} = overlaySize();
    const key = JSON.stringify([list.map((e) => e.index), S.locked, view().key, S.style, S.palette, S.opacity, S.scale, S.cells, S.ties, tiedMap()?.key]);
    if (key !== painted) { painted = key; paintOverlay(overlay, W, H); scale(list); }
    overlay.classList.toggle('crisp', S.cells);
    const kept = estimateFor(S.a, S.b), wanted = S.begun ? RUN.start.src : kept ? kept.src : finished;
    if (source.src !== wanted) source.src = wanted;
    source.alt = (LOOK ? 'Picture that was looked at with the caption: ' : 'Image generated from the prompt: ') + RUN.prompt.slice(0, 300);
    const words = list.map(nameOf);
    if (tiesOn()) caption.replaceChildren(el('b', {text: tiedInWords()[0]}), tiedInWords()[1]);
    else caption.replaceChildren(
      el('b', {text: words.length ? (list.every((e) => e.probe) ? 'Where the model would look for ' : 'Where the model looked for ') + quoted(words) : (LOOK ? 'The picture' : 'The image') + ', with the words that reach half of the common scale in one place'}),
      list.length === 1 ? ': ' + inNumbers(entryFacts(view(), list[0])) : '', '. ', sentence(viewInWords(list)) + '.',
      S.begun ? ' Behind it, the picture that the run set out from.' : kept ? ' Behind it, the estimate of the image at step ' + (kept.step + 1) + '.' : '',
      list.some((e) => e.probe) ? ' A probe is not in the prompt: its value is what it would take from the prompt’s tokens.' : '',
      S.style === 'contour' && list.length ? ' Lines at 25, 50 and 75 % of the scale.' : '');
    warning.hidden = !noticeText;
    warning.textContent = noticeText;
    noticeText = '';
    resize();
  });
  new ResizeObserver(resize).observe(frame);
  return figure;
}

const inNumbers = (fact) => `share ${percent(fact.share)}, peak ${percent(fact.peak)}, area ${percent(fact.area)}`;
const quoted = (words) => words.map((w) => '“' + w + '”').join(words.length > 2 ? ', ' : ' and ');
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// The view as a picture: image, overlay, lines, and a strip that says what it is.
function exportPng(source) {
  const {width, height} = RUN.image, k = Math.max(1, Math.ceil(1024 / Math.min(width, height)));
  const W = width * k, H = height * k, unit = W / 620, strip = Math.round(92 * unit);
  const canvas = el('canvas', {width: W, height: H + strip}), context = canvas.getContext('2d');
  const layer = el('canvas', {}), lines = el('canvas', {width: W, height: H});
  context.fillStyle = '#fbfaf7';
  context.fillRect(0, 0, W, H + strip);
  context.imageSmoothingQuality = 'high';
  context.drawImage(source, 0, 0, W, H);
  const size = overlaySize();
  paintOverlay(layer, size.W, size.H);
  context.imageSmoothingEnabled = !S.cells;
  context.drawImage(layer, 0, 0, W, H);
  context.imageSmoothingEnabled = true;
  paintMarks(lines.getContext('2d'), W, H, unit);
  context.drawImage(lines, 0, 0);
  const list = tiesOn() ? [] : shown(), max = tiesOn() ? tiedMap()?.max || 0 : scaleMax(list[0] || null), pad = 10 * unit;
  context.fillStyle = '#1c1b19';
  context.textBaseline = 'top';
  const line = (text, size, y, style) => {
    context.font = `${style || ''} ${size * unit}px Georgia, serif`;
    let cut = text;
    while (cut.length > 4 && context.measureText(cut).width > W - 2 * pad) cut = cut.slice(0, -2);
    context.fillText(cut === text ? text : cut + '…', pad, H + y * unit);
  };
  line(RUN.prompt.replace(/\s+/g, ' '), 15, 9);
  line(tiesOn() ? tiedInWords().join('') : (list.length ? quoted(list.map(nameOf)) + ': ' : '') + viewInWords(list), 11, 31, 'italic');
  line('0 to ' + percent(max) + (tiesOn() ? ', on the place’s own scale' : S.scale === 'word' ? ', each word on its own scale' : onlyNegative(list) ? ', one scale for the negative prompt’s words' : ', one scale for all words') + '. Attention shows where the model looked, not why.', 11, 48, 'italic');
  const ramp = Float32Array.from({length: 256}, (_, i) => i / 255), strap = el('canvas', {});
  paintThumb(strap, ramp, 1, 256, 1, tiesOn() ? S.palette : paletteOf(list[0]));
  if (tiesOn() || list.length === 1 && S.style === 'heat') context.drawImage(strap, pad, H + 70 * unit, W - 2 * pad, 10 * unit);
  canvas.toBlob((blob) => {
    const url = URL.createObjectURL(blob), words = list.map((e) => e.label).join('-').replace(/[^\p{L}\p{N}-]+/gu, '') || 'image';
    el('a', {href: url, download: 'attnmap-' + words.slice(0, 40) + '.png'}).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }, 'image/png');
}
