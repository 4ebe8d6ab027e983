// The view as a picture: image, overlay, lines, and a strip that says what it is.
function exportPng(source) {
  const {width, height} = RUN.image;
  const k = Math.max(1, Math.ceil(1024 / Math.min(width, height)));
  const W = width * k;
  const H = height * k;
  const unit = W / 620;
  const strip = Math.round(92 * unit);
  const canvas = el('canvas', {width: W, height: H + strip});
  const context = canvas.getContext('2d');
  const layer = el('canvas', {});
  const lines = el('canvas', {width: W, height: H});
  context.fillStyle = '#fbfaf7';
  context.fillRect(0, 0, W, H + strip);
  context.imageSmoothingQuality = 'high';
  context.drawImage(source, 0, 0, W, H);
  const size = overlaySize();
  const other = differing();
  const beside = other && !S.differ && pictureOf(other.src);
  paintOverlay(layer, size.W, size.H);
  context.drawImage(layer, 0, 0, W, H);
  if (beside) {
    const from = splitOf(differing()) / 100;
    context.drawImage(
      beside,
      from * beside.naturalWidth,
      0,
      (1 - from) * beside.naturalWidth,
      beside.naturalHeight,
      from * W,
      0,
      (1 - from) * W,
      H,
    );
  }
  paintMarks(lines.getContext('2d'), W, H, unit);
  context.drawImage(lines, 0, 0);
  const list = shown();
  const bare = !layers(1, 1).length;
  const pad = 10 * unit;
  context.fillStyle = '#1c1b19';
  context.textBaseline = 'top';
  const line = (text, size, y, style) => {
    context.font = `${style || ''} ${size * unit}px Georgia, serif`;
    let cut = text;
    while (cut.length > 4 && context.measureText(cut).width > W - 2 * pad) cut = cut.slice(0, -2);
    context.fillText(cut === text ? text : cut + '…', pad, H + y * unit);
  };
  line(RUN.prompt.replace(/\s+/g, ' '), 15, 9);
  line(
    captionOf(list, belowMaps().kept)
      .map((part) => part.textContent ?? part)
      .join('')
      .replace(HINT, ''),
    11,
    31,
    'italic',
  );
  const max = tiesOn()
    ? tiedMap()?.max || 0
    : S.show === 'mattered' && list.length
      ? causalTop(list[0])
      : scaleMax(list[0] || null);
  // Special tokens and the two halves have scales of their own, so that no one number is their top.
  const painted = list.filter((entry) => layerOf(entry));
  const scaleOf = (entry) => (entry.special ? entry.key : Boolean(entry.negative));
  const apart = painted.length > 1 && (S.scale === 'word' || new Set(painted.map(scaleOf)).size > 1);
  const steps = S.scale === 'steps' ? ' and ' + CALL + 's' : '';
  const whose = tiesOn()
    ? ', on the place’s own scale'
    : S.scale === 'word'
      ? ', each word on its own scale'
      : list.some((entry) => entry.special)
        ? ', the token’s own scale'
        : onlyNegative(list)
          ? ', one scale for the negative prompt’s words' + steps
          : ', one scale for all words' + steps;
  const top = apart && !tiesOn() ? 'the top of the scale of each, which are not the same' : percent(max) + whose;
  line(
    (bare ? '' : '0 to ' + top + '. ') +
      (S.show === 'looked' ? 'Attention shows where the model looked, not why.' : ''),
    11,
    48,
    'italic',
  );
  const strap = el('canvas', {width: 256, height: 1});
  const ramp = strap.getContext('2d').createImageData(256, 1);
  paintScale(ramp.data, list.length > 1, tiesOn() ? 'heat' : S.style, tiesOn() ? S.palette : paletteOf(list[0]));
  strap.getContext('2d').putImageData(ramp, 0, 0);
  if (!bare && (tiesOn() || S.style === 'heat' || S.style === 'alpha'))
    context.drawImage(strap, pad, H + 70 * unit, W - 2 * pad, 10 * unit);
  canvas.toBlob((blob) => {
    const url = URL.createObjectURL(blob);
    const words =
      list
        .map((e) => e.label)
        .join('-')
        .replace(/[^\p{L}\p{N}-]+/gu, '') || 'image';
    el('a', {href: url, download: 'attnmap-' + words.slice(0, 40) + '.png'}).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }, 'image/png');
}
