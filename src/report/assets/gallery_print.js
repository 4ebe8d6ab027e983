// The gallery on paper: every image that the filter lets through, row after row. The page itself
// draws only what the window shows.
let paper = null;
function toPaper() {
  if (paper) return;
  paper = el('div', {class: 'paper'});
  let row = -1;
  let list = null;
  for (const {cell, row: at, column} of layout.places) {
    if (at !== row || !list) {
      const before = row < 0 ? -Infinity : layout.ys[row];
      const section = layout.heads.find((head) => head.y > before && head.y < layout.ys[at]);
      list = el('div', {class: 'row'});
      paper.append(
        ...(section ? [el('h2', {text: section.text})] : []),
        ...(layout.rowNames[at] ? [el('h3', {text: layout.rowNames[at].join(', ')})] : []),
        list,
      );
      row = at;
    }
    const item = nodeFor(cell);
    dress(item, cell);
    list.append(el('figure', {}, el('figcaption', {text: layout.columnNames[column] || ''}), item.node));
  }
  document.querySelector('main').append(paper);
}
function fromPaper() {
  if (paper) paper.remove();
  paper = null;
}
addEventListener('beforeprint', toPaper);
addEventListener('afterprint', fromPaper);
