"""Style and script of the atlas, as text: they stand inside the HTML fragment that ``atlas`` makes."""

from __future__ import annotations

# ROOT stands for the fragment's own selector. Colours follow the book's theme, JupyterLab's, or the browser's mode.
STYLE = """
ROOT{container-type:inline-size;box-sizing:border-box;padding:4px;--ink:var(--pst-color-text-base,var(--jp-ui-font-color1,CanvasText));
--line:var(--pst-color-border,var(--jp-border-color1,GrayText));
--ground:var(--pst-color-surface,var(--jp-layout-color2,Canvas));--size:clamp(18px,3.4vw,30px);color:var(--ink);font-size:.9rem}
ROOT .leuk-picture{background-repeat:no-repeat}
ROOT .leuk-sheet{background-size:100% 100%;max-width:40rem}
ROOT .leuk-bar{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:center;margin:0 0 .5rem}
ROOT fieldset{display:flex;flex-wrap:wrap;gap:.25rem .9rem;border:0;margin:0;padding:0;min-width:0}
ROOT legend{float:left;padding:0;margin:0 .3rem 0 0;font-size:inherit;font-weight:600;width:auto}
ROOT label{display:inline-flex;align-items:center;gap:.3rem;margin:0;cursor:pointer}
ROOT .leuk-chip{width:.9rem;height:.9rem;border-radius:.2rem;border:1px solid var(--ink)}
ROOT .leuk-body{display:grid;grid-template-columns:minmax(0,1fr) 14rem;gap:1rem;align-items:start}
ROOT .leuk-plot{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.2rem .4rem}
ROOT .leuk-field{position:relative;aspect-ratio:4/3;border:1px solid var(--line);background:var(--ground);overflow:hidden;
border-radius:.3rem;cursor:crosshair}
ROOT .leuk-field:focus-visible{outline:3px solid var(--pst-color-primary,Highlight);outline-offset:2px}
ROOT .leuk-cell{position:absolute;width:var(--size);height:var(--size);box-sizing:border-box;
border:2px solid var(--own);border-radius:3px;background-origin:border-box}
ROOT .leuk-cell[hidden]{display:none}
ROOT .leuk-cell[aria-selected=true]{z-index:2;transform:scale(1.7);box-shadow:0 0 0 2px var(--ground),0 0 0 4px var(--ink)}
ROOT .leuk-ticks{display:flex;justify-content:space-between;gap:.3rem;font-size:.8rem;font-variant-numeric:tabular-nums}
ROOT .leuk-ticks.leuk-up{writing-mode:vertical-rl;transform:rotate(180deg)}
ROOT .leuk-ticks b{font-weight:600;text-align:center}
ROOT .leuk-card{color:inherit;border:1px solid var(--line);border-radius:.3rem;padding:.6rem;background:var(--ground);min-width:0}
ROOT .leuk-large{box-sizing:border-box;width:100%;max-width:11rem;aspect-ratio:1;border:4px solid var(--own,var(--line));border-radius:4px;
background-origin:border-box}
ROOT dl{margin:.5rem 0 0;display:grid;grid-template-columns:fit-content(9rem) minmax(0,1fr);gap:.1rem .6rem;font-size:.82rem}
ROOT dt{font-weight:600;margin:0}
ROOT dd{margin:0;overflow-wrap:break-word;font-variant-numeric:tabular-nums}
ROOT .leuk-how{font-size:.82rem;margin:.4rem 0 0}
@container (max-width:44rem){ROOT .leuk-body{grid-template-columns:minmax(0,1fr)}
ROOT .leuk-card{display:grid;grid-template-columns:min(11rem,32%) minmax(0,1fr);gap:.6rem}
ROOT dl{margin:0;align-content:start}ROOT .leuk-how{grid-column:1/-1}}
@media print{ROOT .leuk-bar,ROOT .leuk-how{display:none}}
"""

# Called with the fragment's element and its data.
SCRIPT = """function(root, data) {
  const make = (tag, name, parent, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };
  const count = data.x.length;
  const percent = (at, of) => of > 1 ? 100 * at / (of - 1) : 0;
  const paint = (element, i) => {
    element.style.backgroundSize = `${100 * data.columns}% ${100 * data.rows}%`;
    element.style.backgroundPosition =
      `${percent(i % data.columns, data.columns)}% ${percent(Math.floor(i / data.columns), data.rows)}%`;
    element.style.setProperty('--own', data.colours[data.kind[i]]);
  };
  root.querySelector('.leuk-sheet').remove();

  const bar = make('div', 'leuk-bar', root);
  const filter = make('fieldset', '', bar);
  make('legend', '', filter, data.label);
  const boxes = data.classes.map((name, k) => {
    const label = make('label', '', filter);
    const box = make('input', '', label);
    box.type = 'checkbox';
    box.checked = true;
    make('span', 'leuk-chip', label).style.background = data.colours[k];
    label.append(name);
    box.addEventListener('change', () => {
      cells.forEach((cell, i) => { cell.hidden = !boxes[data.kind[i]].checked; });
      if (current >= 0 && cells[current].hidden) select(-1);
    });
    return box;
  });
  const sizing = make('label', '', bar, 'size of the pictures');
  const slider = make('input', '', sizing);
  slider.type = 'range'; slider.min = 10; slider.max = 72; slider.value = 30;
  slider.addEventListener('input', () => root.style.setProperty('--size', slider.value + 'px'));

  const body = make('div', 'leuk-body', root);
  const plot = make('div', 'leuk-plot', body);
  const ticks = (name, d) => {
    const line = make('div', name, plot);
    const [low, middle, high] = data.ticks[d];
    if (data.axes[d]) {
      make('span', '', line, low); make('b', '', line, data.axes[d]); make('span', '', line, high);
      line.title = `middle: ${middle}`;
    }
    return line;
  };
  ticks('leuk-ticks leuk-up', 1);
  const field = make('div', 'leuk-field', plot);
  make('span', '', plot);
  ticks('leuk-ticks', 0);
  field.tabIndex = 0;
  field.setAttribute('role', 'listbox');
  field.setAttribute('aria-label', root.getAttribute('aria-label'));

  const card = make('aside', 'leuk-card', body);
  card.setAttribute('aria-label', 'The chosen cell');
  const large = make('div', 'leuk-large leuk-picture', card);
  large.setAttribute('role', 'img');
  const list = make('dl', '', card);
  make('p', 'leuk-how', card, 'Point at a cell, or tab into the map and use the arrow keys. Click or Enter holds a cell, ' +
    'Escape lets go; Page Up and Page Down go through its class.');

  let current = -1, held = false;
  const words = i => [data.classes[data.kind[i]], ...data.records[i].slice(0, 2)].join(', ');
  const cells = data.x.map((_, i) => {
    const cell = make('div', 'leuk-cell leuk-picture', field);
    cell.id = `${root.id}-${i}`;
    cell.setAttribute('role', 'option');
    cell.setAttribute('aria-selected', 'false');
    cell.setAttribute('aria-label', words(i));
    cell.style.left = `calc((100% - var(--size)) * ${data.x[i] / 1000})`;
    cell.style.top = `calc((100% - var(--size)) * ${1 - data.y[i] / 1000})`;
    paint(cell, i);
    return cell;
  });

  const select = i => {
    if (current >= 0) cells[current].setAttribute('aria-selected', 'false');
    current = i;
    if (i < 0) { held = false; field.removeAttribute('aria-activedescendant'); return; }
    cells[i].setAttribute('aria-selected', 'true');
    field.setAttribute('aria-activedescendant', cells[i].id);
    show(i);
  };
  const show = i => {
    paint(large, i);
    large.setAttribute('aria-label', `Cell enlarged: ${words(i)}`);
    list.textContent = '';
    make('dt', '', list, data.label);
    make('dd', '', list, data.classes[data.kind[i]]);
    data.fields.forEach((name, f) => { make('dt', '', list, name); make('dd', '', list, data.records[i][f]); });
  };

  const index = event => cells.indexOf(event.target.closest('.leuk-cell'));
  field.addEventListener('pointerover', event => { if (!held && index(event) >= 0) select(index(event)); });
  field.addEventListener('click', event => {
    const i = index(event);
    held = i >= 0 && !(held && i === current);
    select(i);
    held = held && i >= 0;
  });

  const shown = () => [...cells.keys()].filter(i => !cells[i].hidden);
  const step = (dx, dy) => {
    let best = current, least = Infinity;
    for (const i of shown()) {
      const along = (data.x[i] - data.x[current]) * dx + (data.y[i] - data.y[current]) * dy;
      const aside = Math.abs((data.x[i] - data.x[current]) * dy) + Math.abs((data.y[i] - data.y[current]) * dx);
      const far = along + 2 * aside;
      if (i !== current && (along > 0 || along === 0 && aside === 0 && i > current) && far < least) {
        best = i; least = far;
      }
    }
    return best;
  };
  const kin = by => {
    const same = shown().filter(i => data.kind[i] === data.kind[current]);
    return same[(same.indexOf(current) + by + same.length) % same.length];
  };
  const moves = {
    ArrowRight: () => step(1, 0), ArrowLeft: () => step(-1, 0), ArrowUp: () => step(0, 1), ArrowDown: () => step(0, -1),
    PageDown: () => kin(1), PageUp: () => kin(-1), Home: () => shown()[0], End: () => shown().at(-1),
  };
  field.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !shown().length) return;
    if (moves[event.key]) {
      select(current < 0 ? shown()[0] : moves[event.key]());
      held = true;
    } else if (event.key === 'Enter' || event.key === ' ') {
      held = current >= 0;
    } else if (event.key === 'Escape') {
      select(-1);
    } else return;
    event.preventDefault();
  });
  show(0);
}"""
