// How maps are laid over the image. The styles are those of the command line, pixel by pixel as
// `attnmap view` draws them. Several words at once are shown by pages alone.

// Shares of the scale that contour draws lines at.
const LEVELS = [0.2, 0.4, 0.6, 0.8];
// From this share of the scale on, the style alpha covers the image as much as it ever does.
const COVERED = 0.6;

// The pixels of a picture at W x H, and their brightness (Rec. 709).
function pixelsOf(picture, W, H) {
  const context = el('canvas', {width: W, height: H}).getContext('2d', {willReadFrequently: true});
  context.imageSmoothingQuality = 'high';
  context.drawImage(picture, 0, 0, W, H);
  const pixels = context.getImageData(0, 0, W, H).data;
  const grey = new Uint8Array(W * H);
  for (let i = 0; i < grey.length; i++)
    grey[i] = 0.2126 * pixels[4 * i] + 0.7152 * pixels[4 * i + 1] + 0.0722 * pixels[4 * i + 2] + 0.5;
  return {pixels, grey};
}

// Lays `layers` over a picture: each has `values`, the `max` of its scale, and a `hue` where there
// are several words.
function paintStyle(rgba, {pixels, grey}, layers, {style, palette: name, opacity, threshold}) {
  const table = palette(name);
  const several = layers.length > 1;
  const under = Math.sqrt(opacity);
  for (let i = 0; i < grey.length; i++) {
    const o = 4 * i;
    const brightness = grey[i];
    let t = 0;
    let r = 0;
    let g = 0;
    let b = 0;
    if (several) {
      let sum = 0;
      for (const {values, max, hue} of layers) {
        const share = max > 0 ? Math.min(1, Math.max(0, values[i] / max)) : 0;
        const part = share * share;
        r += part * hue[0];
        g += part * hue[1];
        b += part * hue[2];
        sum += part;
        if (share > t) t = share;
      }
      // From black to the mix of the hues, as a palette rises from black.
      const k = sum > 0 ? (style === 'alpha' ? 1 : t) / sum : 0;
      r *= k;
      g *= k;
      b *= k;
    } else {
      const {values, max} = layers[0];
      t = max > 0 ? Math.min(1, Math.max(0, values[i] / max)) : 0;
      const c = 3 * Math.round(255 * t);
      r = table[c];
      g = table[c + 1];
      b = table[c + 2];
    }
    let greyed = 0; // how much grey lies on the image
    let over = 0; // how much of the colour lies on that
    if (style === 'heat') {
      greyed = under;
      over = opacity;
    } else if (style === 'alpha') over = opacity * Math.min(1, t / COVERED);
    else if (style === 'spotlight') {
      over = opacity * (1 - t);
      r = g = b = 0;
    } else if (style === 'mask' && !(t >= threshold && t > 0)) {
      greyed = opacity;
      over = 0.85 * opacity;
      r = g = b = 16;
    }
    for (let c = 0; c < 3; c++) {
      const below = pixels[o + c] + (brightness - pixels[o + c]) * greyed;
      rgba[o + c] = below + ((c === 0 ? r : c === 1 ? g : b) - below) * over;
    }
    rgba[o + 3] = 255;
  }
}

// Paints the colours that a scale from 0 to its top has in a style; several words share one without
// hues.
function paintScale(rgba, several, style, name) {
  const ramp = Float32Array.from({length: rgba.length / 4}, (_, i) => i / (rgba.length / 4 - 1));
  if (style === 'spotlight' || several)
    for (let i = 0; i < ramp.length; i++) rgba.set([255 * ramp[i], 255 * ramp[i], 255 * ramp[i], 255], 4 * i);
  else paintPalette(rgba, ramp, 1, name);
}

// Lines of a map where the style has some: level as a share of the scale, and colour.
function linesOf(style, name, threshold) {
  const table = palette(name);
  const at = (t) => {
    const c = 3 * Math.round(255 * t);
    return [table[c], table[c + 1], table[c + 2]];
  };
  // From the upper part of the scale: its lower part is too dark for a line.
  if (style === 'contour') return LEVELS.map((level) => ({level, colour: at(0.4 + 0.6 * level)}));
  return style === 'mask' && threshold > 0 ? [{level: threshold, colour: at(0.85)}] : [];
}
