// A place on the image: under the pointer, kept by a click or a tap, or dragged to a box. Its
// handles and keys move and resize it.

// The words that lead at a place, as the chip at the pointer says them.
const CHIP_WORDS = 3;
function leaders(region) {
  const maps = view();
  const here = shares(maps, region);
  const list = (S.little ? WORDS : CONTENT).concat(S.probes ? PROBES : []);
  return list
    .map((entry) => ({entry, share: here[entry.index]}))
    .sort((p, q) => q.share - p.share)
    .slice(0, CHIP_WORDS);
}

// What lies over the image for the pointer: the chip, and the kept box with its handles. Listens on
// the frame.
function pointerParts(frame) {
  const chip = el('div', {class: 'chip', hidden: true, 'aria-hidden': 'true'});
  const corner = (x, y) => el('i', {class: 'handle', 'data-x': x, 'data-y': y});
  const handles = [corner(0, 0), corner(1, 0), corner(0, 1), corner(1, 1)];
  const boxed = el('div', {class: 'boxed', hidden: true, 'aria-hidden': 'true'}, handles);
  const {width, height} = RUN.image;
  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  const at = (event) => {
    const r = frame.getBoundingClientRect();
    return {
      x: clamp(Math.floor(((event.clientX - r.left) / r.width) * width), 0, width - 1),
      y: clamp(Math.floor(((event.clientY - r.top) / r.height) * height), 0, height - 1),
    };
  };
  const span = (p, q) => ({
    x: Math.min(p.x, q.x),
    y: Math.min(p.y, q.y),
    w: Math.abs(p.x - q.x) + 1,
    h: Math.abs(p.y - q.y) + 1,
  });
  const least = Math.max(2, Math.max(width, height) / 80); // a click is not a box
  const isBox = (box) => box.w > least || box.h > least;
  const within = (p, box, by = 0) =>
    p.x >= box.x - by && p.x < box.x + box.w + by && p.y >= box.y - by && p.y < box.y + box.h + by;

  // One gesture at a time: a new place, the border of both images, or the kept box moved or
  // resized.
  let gesture = null;
  frame.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    const p = at(event);
    const handle = event.target.closest('.handle');
    if (differing() && !S.differ) gesture = {kind: 'split'};
    else if (handle) {
      const {x, y, w, h} = S.box; // the opposite corner stays
      gesture = {
        kind: 'resize',
        fixed: {x: handle.dataset.x === '1' ? x : x + w - 1, y: handle.dataset.y === '1' ? y : y + h - 1},
      };
    } else if (S.box && S.box.w * S.box.h > 1 && within(p, S.box))
      gesture = {kind: 'move', from: p, box: S.box, moved: false};
    else gesture = {kind: 'new', from: p, touch: event.pointerType === 'touch', moved: false};
    try {
      frame.setPointerCapture(event.pointerId);
    } catch {
      /* the pointer is gone already */
    }
    if (gesture.kind === 'split') split(event);
  });
  const split = (event) => {
    const r = frame.getBoundingClientRect();
    set({split: Math.round(clamp((100 * (event.clientX - r.left)) / r.width, 0, 100))});
  };
  frame.addEventListener('pointermove', (event) => {
    const p = at(event);
    if (!gesture) {
      if (event.pointerType !== 'touch') set({probe: {...p, w: 1, h: 1}});
      return;
    }
    if (gesture.kind === 'split') return split(event);
    if (gesture.kind === 'resize') return set({box: span(gesture.fixed, p), probe: null});
    if (gesture.kind === 'move') {
      const {box, from} = gesture;
      const dx = p.x - from.x;
      const dy = p.y - from.y;
      gesture.moved ||= Math.abs(dx) + Math.abs(dy) > least;
      if (gesture.moved)
        set({
          box: {...box, x: clamp(box.x + dx, 0, width - box.w), y: clamp(box.y + dy, 0, height - box.h)},
          probe: null,
        });
      return;
    }
    const box = span(gesture.from, p);
    gesture.moved ||= isBox(box);
    if (gesture.moved) set({box: null, probe: box});
  });
  frame.addEventListener('pointerup', (event) => {
    if (!gesture) return;
    const {kind, from, moved} = gesture;
    const p = at(event);
    gesture = null;
    if (kind === 'new' && moved) set({box: span(from, p), probe: null});
    else if (kind === 'new' || (kind === 'move' && !moved)) {
      // A second click on what is kept frees it.
      const again = S.box && (kind === 'move' || within(p, S.box, least));
      set({box: again ? null : {...p, w: 1, h: 1}, probe: null});
    }
    if (kind !== 'split') announce(S.box ? (S.box.w * S.box.h > 1 ? 'Box kept' : 'Point kept') : 'No place is kept');
  });
  frame.addEventListener('pointercancel', () => {
    gesture = null;
    if (S.probe && !S.probe.keyboard) set({probe: null});
  });
  frame.addEventListener('pointerleave', () => {
    if (!gesture) set({probe: null});
  });
  frame.addEventListener('blur', () => {
    if (S.probe && S.probe.keyboard) set({probe: null});
  });
  frame.addEventListener('keydown', (event) => {
    const move = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[event.key];
    if (move && differing() && !S.differ && move[0]) {
      set({split: clamp(splitOf(differing()) + 2 * move[0], 0, 100)});
      event.preventDefault();
      return;
    }
    const cw = Math.max(1, Math.round(width / GRID.width));
    const ch = Math.max(1, Math.round(height / GRID.height));
    const p = S.probe || S.box || {x: Math.floor(width / 2), y: Math.floor(height / 2), w: 1, h: 1};
    if (move && event.shiftKey)
      set({
        probe: {
          ...p,
          keyboard: true,
          w: clamp(p.w + move[0] * cw, 1, width - p.x),
          h: clamp(p.h + move[1] * ch, 1, height - p.y),
        },
      });
    else if (move)
      set({
        probe: {
          ...p,
          keyboard: true,
          x: clamp(p.x + move[0] * cw, 0, width - p.w),
          y: clamp(p.y + move[1] * ch, 0, height - p.h),
        },
      });
    else if (event.key === 'Enter' && S.probe) set({box: {x: p.x, y: p.y, w: p.w, h: p.h}, probe: null});
    else return;
    event.preventDefault();
  });

  listeners.push(() => {
    const region = S.probe || S.box;
    const list = shown();
    frame.classList.toggle('splitting', Boolean(differing()) && !S.differ);
    boxed.hidden = !S.box || S.box.w * S.box.h <= 1;
    if (!boxed.hidden)
      Object.assign(boxed.style, {
        left: (100 * S.box.x) / width + '%',
        top: (100 * S.box.y) / height + '%',
        width: (100 * S.box.w) / width + '%',
        height: (100 * S.box.h) / height + '%',
      });
    chip.hidden = !region || Boolean(tiesOn()) || Boolean(differing());
    if (chip.hidden) return;
    const lines = leaders(region).map(({entry, share}) =>
      el(
        'div',
        {class: list.includes(entry) ? 'lit' : null},
        el('span', {text: nameOf(entry), dir: 'auto'}),
        el('b', {text: percent(share)}),
      ),
    );
    const point = region.w * region.h <= 1;
    const entry = list.length === 1 ? list[0] : null;
    const layer = entry && S.show !== 'without' ? layerOf(entry) : null;
    // The map of shares is on a scale of its own, which the table's shares beside it are not.
    if (point && layer && S.show === 'mattered')
      lines.push(
        el(
          'div',
          {class: 'value'},
          el('span', {text: 'change without ' + nameOf(entry), dir: 'auto'}),
          el('b', {text: percent(boxMean(layer.map, GRID, region))}),
        ),
      );
    chip.replaceChildren(...lines);
    // Beside the place, on the side that has room.
    const x = (region.x + region.w / 2) / width;
    const y = (region.y + (point ? 0.5 : region.h)) / height;
    const right = x > 0.6;
    const above = y > 0.7;
    Object.assign(chip.style, {
      left: right ? '' : `calc(${100 * x}% + 0.9rem)`,
      right: right ? `calc(${100 * (1 - x)}% + 0.9rem)` : '',
      top: above ? '' : `calc(${100 * y}% + 0.6rem)`,
      bottom: above ? `calc(${100 * (1 - y)}% + 0.6rem)` : '',
    });
  });
  return [boxed, chip];
}
