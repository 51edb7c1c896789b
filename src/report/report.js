// What moves on the page. Without it the page says the same: figures are drawings, tables keep the plan's order.
'use strict';
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const element = (name, attributes, ...children) => {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...children);
    return made;
  };
  const press = (button, on) => button.setAttribute('aria-pressed', String(on));
  const pressed = (button) => button.getAttribute('aria-pressed') === 'true';

  // Theme: as the system says, or as chosen.
  const system = matchMedia('(prefers-color-scheme: dark)');
  const printing = matchMedia('print');
  const themes = ['as the system', 'light', 'dark'];
  let theme = 0;
  const isDark = () => !printing.matches && (theme === 0 ? system.matches : themes[theme] === 'dark');
  const live = new Map(); // figure -> what draws it again
  const applyTheme = () => {
    root.dataset.theme = isDark() ? 'dark' : 'light';
    themeButton.textContent = `Theme: ${themes[theme]}`;
    live.forEach((draw) => draw());
  };
  const themeButton = document.getElementById('theme');
  themeButton.hidden = false;
  themeButton.addEventListener('click', () => {
    theme = (theme + 1) % themes.length;
    applyTheme();
  });
  system.addEventListener('change', applyTheme);
  printing.addEventListener('change', applyTheme);

  // The comparison: sorted by a column, and only the columns that differ.
  const table = document.getElementById('comparison-table');
  if (table) {
    const body = table.tBodies[0];
    const heads = all('thead th', table);
    const key = (row, column) => {
      const cell = row.cells[column];
      return column === 0 ? cell.textContent.trim() : cell.dataset.sort === '' ? null : Number(cell.dataset.sort);
    };
    const compare = (a, b) => (typeof a === 'string' ? a.localeCompare(b) : a - b);
    heads.forEach((head, column) => {
      const button = element('button', { type: 'button', textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener('click', () => {
        const falling = head.getAttribute('aria-sort') === 'ascending';
        heads.forEach((other) => other.removeAttribute('aria-sort'));
        head.setAttribute('aria-sort', falling ? 'descending' : 'ascending');
        const rows = [...body.rows].sort((a, b) => {
          const [one, other] = [key(a, column), key(b, column)];
          if (one === null || other === null) return (one === null) - (other === null); // not measured: last
          return falling ? compare(other, one) : compare(one, other);
        });
        body.append(...rows);
      });
    });
    const differences = document.getElementById('differences');
    differences.hidden = !table.querySelector('.same');
    differences.addEventListener('click', () => {
      press(differences, !pressed(differences));
      table.classList.toggle('only-differences', pressed(differences));
    });
  }

  // Figures: a drawing becomes a plot when it comes near.
  const dark = JSON.parse(document.getElementById('dark').textContent);
  const themed = (json) => JSON.parse(isDark() ? json.replace(/#[0-9A-F]{6}/g, (c) => dark[c] ?? c) : json);
  const save = (url, name) => {
    element('a', { href: url, download: name }).click();
  };
  // The drawing with its title, which the page has as text. A unit of its view box is a quarter of a pixel.
  const drawing = (figure) => {
    const svg = figure.querySelector('.card > svg').cloneNode(true);
    const [width, height, above] = [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height, 260];
    svg.setAttribute('viewBox', `0 ${-above} ${width} ${height + above}`);
    svg.setAttribute('height', (height + above) / 4);
    const add = (name, attributes, words = '') => {
      const part = document.createElementNS(svg.namespaceURI, name);
      Object.entries(attributes).forEach(([key, value]) => part.setAttribute(key, value));
      part.textContent = words;
      svg.append(part);
    };
    add('rect', { x: 0, y: -above, width, height: above, fill: '#FFFFFF' });
    const text = { x: 96, 'font-family': 'sans-serif' };
    add('text', { ...text, y: -140, 'font-size': 76, 'font-weight': 'bold', fill: '#222222' }, figure.querySelector('h3').textContent);
    add('text', { ...text, y: -40, 'font-size': 50, fill: '#585858' }, figure.querySelector('.subtitle').textContent);
    return `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(svg))}`;
  };
  const savePng = (figure, name) => {
    const image = new Image();
    image.addEventListener('load', () => {
      const canvas = element('canvas', { width: 2 * image.width, height: 2 * image.height });
      canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
      save(canvas.toDataURL('image/png'), name);
    });
    image.src = drawing(figure);
  };
  const config = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ['toImage', 'lasso2d', 'select2d', 'autoScale2d'],
  };

  // The library is packed in the page, and unpacked when the first figure needs it.
  let library = null;
  const unpack = async () => {
    const packed = atob(document.getElementById('plotly').textContent);
    const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    document.head.append(element('script', { textContent: await new Response(stream).text() }));
  };

  // What a reader may change on a figure. Its buttons are there before its plot, so that nothing moves when that comes.
  const prepare = (figure) => {
    const [plot, shown] = ['.plot', '.live'].map((part) => figure.querySelector(part));
    const series = all('.keys button', figure);
    const names = (list) => list.split(' ').filter(Boolean);
    const logs = names(figure.dataset.log);
    const zeros = names(figure.dataset.zero);
    const planned = figure.dataset.logged === 'true';
    // What the reader chose: every axis that may be logarithmic is or is not, none chosen is as planned; and from 0 or not.
    const chosen = { log: null, zero: false };
    const isLog = () => chosen.log ?? planned;
    let json = null; // the plot's data, once it is drawn
    let first = null; // its layout as planned
    const axis = (name) => {
      const { type: usual } = first[name];
      const type = chosen.log === null || !logs.includes(name) ? usual : chosen.log ? 'log' : 'linear';
      // Ticks of our own fit one scale and one range: with another the library finds its own. A logarithm has no 0.
      if (chosen.zero && zeros.includes(name) && type === 'linear') {
        return { type, autorange: true, rangemode: 'tozero', tickmode: 'auto' };
      }
      return type === usual ? {} : { type, autorange: true, tickmode: 'auto' };
    };
    let origin = null; // the button that begins axes at 0
    const draw = () => {
      if (origin) origin.disabled = isLog() && zeros.every((name) => logs.includes(name));
      if (json === null) return Promise.resolve();
      const { data, layout } = themed(json);
      const hidden = new Set(series.filter((button) => !pressed(button)).map((button) => button.dataset.series));
      data.forEach((trace) => { trace.visible = !hidden.has(trace.legendgroup); });
      [...logs, ...zeros].forEach((name) => Object.assign(layout[name], axis(name)));
      layout.uirevision = JSON.stringify(chosen); // what was zoomed into stays, until an axis changes
      return Plotly.react(plot, data, layout, config);
    };
    series.forEach((button) => button.addEventListener('click', () => {
      press(button, !pressed(button));
      draw();
    }));
    const tools = figure.querySelector('.head');
    const toggle = (words, on, act) => {
      const button = element('button', { type: 'button', className: 'of-plot', textContent: words });
      press(button, on);
      button.addEventListener('click', () => {
        press(button, !pressed(button));
        act(pressed(button));
      });
      tools.append(button);
      return button;
    };
    if (logs.length > 0) {
      toggle('Log scale', planned, (on) => {
        chosen.log = on === planned ? null : on;
        draw();
      });
    }
    if (zeros.length > 0) {
      origin = toggle('From 0', false, (on) => {
        chosen.zero = on;
        draw();
      });
    }
    toggle('Drawing', false, (on) => {
      figure.classList.toggle('is-live', !on && json !== null);
      shown.hidden = on || json === null;
    });
    draw();
    // The library's own tools answer to the pointer only. What a drag does is for the pointer.
    const reach = () => all('.modebar-btn:not([data-attr=dragmode])', plot).forEach((tool) => {
      Object.assign(tool, { tabIndex: 0, role: 'button', ariaLabel: tool.dataset.title });
    });
    plot.addEventListener('keydown', (event) => {
      if (!event.target.matches('a.modebar-btn') || !['Enter', ' '].includes(event.key)) return;
      event.preventDefault();
      event.target.click();
    });
    // The drawing becomes a plot, in the same place.
    return async () => {
      library ??= unpack();
      await library;
      json = figure.querySelector('script').textContent;
      first = JSON.parse(json).layout;
      shown.hidden = false;
      figure.classList.add('is-live');
      live.set(figure, draw);
      await draw();
      reach();
      plot.on('plotly_afterplot', reach);
    };
  };

  // On a narrow screen a plot has no room: there the drawing stays.
  const narrow = matchMedia('(max-width: 45rem)');
  const enliven = new Map(); // figure -> what makes it a plot, until it is one
  const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    if (narrow.matches || !('DecompressionStream' in window)) return;
    near.unobserve(target);
    const start = enliven.get(target);
    enliven.delete(target);
    start?.();
  }), { rootMargin: '600px' });
  narrow.addEventListener('change', () => enliven.forEach((_, figure) => {
    near.unobserve(figure);
    near.observe(figure);
  }));
  all('#figures figure').forEach((figure) => {
    const name = figure.id.replace('figure-', '');
    const tools = figure.querySelector('.head');
    const svg = element('button', { type: 'button', textContent: 'SVG', title: 'Download as SVG' });
    svg.addEventListener('click', () => save(drawing(figure), `${name}.svg`));
    const png = element('button', { type: 'button', textContent: 'PNG', title: 'Download as PNG' });
    png.addEventListener('click', () => savePng(figure, `${name}.png`));
    tools.append(svg, png);
    enliven.set(figure, prepare(figure));
    near.observe(figure);
  });

  // A link into something folded opens it.
  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    const folded = target?.closest('details');
    if (folded) folded.open = true;
    target?.scrollIntoView();
  };
  addEventListener('hashchange', open);
  applyTheme();
  open();
})();
