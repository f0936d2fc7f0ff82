// The study: all scans as pictures or as a table.
import { address, get, isComing } from './api.js';
import { dot, make, millilitres, moment } from './dom.js';
import { listen } from './live.js';
import { nextStep } from './steps.js';

const KINDS = {
  outlined: 'done', accepted: 'done', trained: 'labelled', carried: 'labelled', stored: 'labelled', none: 'none', unusable: 'left_out', left_out: 'left_out',
};
const FILTERS = [
  ['', 'All', 'all'], ['open', 'To do', 'open'], ['review', 'Needs review', 'review'], ['sent_back', 'Sent back', 'sent_back'],
  ['carried', 'Carried over', 'carried'], ['trained', 'By the network', 'trained'], ['stored', 'Labelled', 'stored'],
  ['outlined', 'Outlined', 'outlined'], ['accepted', 'Accepted', 'accepted'], ['none', 'Not labelled', 'none'], ['unusable', 'Cannot be used', 'unusable'], ['left_out', 'Left out', 'left_out'],
];
const ORDERS = [['name', 'Name'], ['state', 'State'], ['quality', 'Quality'], ['saved', 'Age'], ['volume', 'Volume']];
const REFRESH = 5000;

/** What is looked at; it stays while other parts of the page are shown, and in the address of none. */
const asked = { search: '', state: '', order: 'name', descending: false, structure: '', page: 1, size: 50 };
let shape = 'pictures';

/** The ids of the scans in the order of the table, for going on to the next one. */
export let order = [];

export function stateBadge(scan, states) {
  const parts = [make('span', { class: `badge ${KINDS[scan.state]}` }, states[scan.state])];
  if (scan.sent_back) {
    parts.push(' ', make('span', { class: 'badge sent' }, `Sent back by ${scan.sent_back}`));
  } else if (scan.review.length) {
    parts.push(' ', make('span', { class: 'badge review' }, 'Needs review'));
  }
  return parts;
}

export function qualityOf(scan) {
  if (scan.quality === null) {
    return null;
  }
  const [low, high] = scan.quality_range ?? [];
  const range = low === undefined || low === high ? '' : ` (${low.toFixed(2)} to ${high.toFixed(2)})`;
  const late = scan.out_of_date ? ', before the last change' : '';
  const value = Math.max(0, Math.min(1, scan.quality));
  return make(
    'span', {},
    make('meter', { min: 0, max: 1, low: 0.5, high: 0.7, optimum: 1, value, 'aria-label': 'Estimated quality' }),
    ` ${scan.quality.toFixed(2)}${range}${late}`
  );
}

export function volumesOf(scan, structures) {
  const known = structures.filter(each => scan.volumes[each.name] !== undefined);
  return make(
    'ul', { class: 'volumes small' },
    known.map(each => make(
      'li', {}, dot(each.colour), `${each.name} ${millilitres(scan.volumes[each.name])}`,
      scan.odd[each.name] ? make('span', { class: 'odd' }, ` ${scan.odd[each.name]}`) : null))
  );
}

/** A picture, which the server may still be making: asked for again until it is there. */
function picture(scan) {
  const image = make('img', {
    class: 'picture', alt: `Planes of ${scan.title} with the contours of its label`, loading: 'lazy', decoding: 'async', width: 480, height: 160,
  });
  let tries = 0;
  const query = { image: scan.name, key: scan.picture };
  const ask = () => { image.src = address('picture', { ...query, again: tries || '' }); };
  const wait = seconds => new Promise(resolve => setTimeout(resolve, 1000 * seconds));
  image.addEventListener('error', async () => {
    tries += 1;
    await wait(0.4);
    while (image.isConnected && tries < 5) {
      try {
        if (!(await isComing('picture', query))) {
          ask();
          return;
        }
        await wait(2);
      } catch (error) {
        image.alt = `No picture: ${error.message}`;
        tries += 1;
        await wait(30); // a DICOM server may be back
      }
    }
  });
  image.addEventListener('load', () => image.classList.toggle('flat', image.naturalWidth === image.naturalHeight));
  ask();
  return image;
}

function scanLink(scan, ...content) {
  return make('a', { href: `#/scan/${encodeURIComponent(scan.name)}` }, ...content);
}

function about(scan) {
  return scan.about ? make('p', { class: 'small quiet' }, scan.about) : null;
}

function sentence(scan) {
  return scan.state === 'none' ? null : make('p', { class: 'small' }, scan.words, scan.saved ? ', ' : '', scan.saved ? moment(scan.saved) : '');
}

function reasons(scan) {
  return scan.review.length ? make('p', { class: 'small odd' }, scan.review.join('; ')) : null;
}

function card(scan, answer) {
  const quality = qualityOf(scan);
  return make(
    'li', { class: 'card' },
    scanLink(
      scan, picture(scan),
      make(
        'div', { class: 'words' },
        make('h2', {}, scan.title), about(scan), make('p', {}, ...stateBadge(scan, answer.states)), sentence(scan),
        quality ? make('p', { class: 'small' }, 'Estimated quality ', quality) : null, reasons(scan), volumesOf(scan, answer.structures)))
  );
}

function row(scan, answer) {
  return make(
    'tr', {},
    make('td', {}, scanLink(scan, picture(scan))),
    make('th', { scope: 'row' }, scanLink(scan, scan.title), about(scan)),
    make('td', { 'data-name': 'State' }, ...stateBadge(scan, answer.states), sentence(scan), reasons(scan)),
    make('td', { 'data-name': 'Quality', class: 'number' }, qualityOf(scan) ?? ''),
    make('td', { 'data-name': 'Volumes' }, volumesOf(scan, answer.structures)),
    make('td', { 'data-name': 'Age', class: 'number' }, scan.saved ? moment(scan.saved) : ''));
}

function table(answer, sort) {
  const head = (text, key) => make(
    'th', { scope: 'col', 'aria-sort': asked.order === key ? (asked.descending ? 'descending' : 'ascending') : null },
    make('button', { type: 'button', onclick: () => sort(key) }, text, asked.order === key ? (asked.descending ? ' ↓' : ' ↑') : ''));
  return make(
    'div', { class: 'table', role: 'region', 'aria-label': 'Scans', tabindex: 0 },
    make(
      'table', { class: 'rows' },
      make('caption', { class: 'hidden-text' }, 'The scans of the study'),
      make('thead', {}, make('tr', {}, make('th', { scope: 'col' }, 'Picture'), head('Scan', 'name'), head('State', 'state'),
        head('Quality', 'quality'), head('Volumes', 'volume'), head('Age', 'saved'))),
      make('tbody', {}, answer.scans.map(scan => row(scan, answer)))));
}

function option(value, text, chosen) {
  return make('option', { value, selected: value === chosen }, text);
}

/** Show the study in an element; returns what ends it. */
export function study(main) {
  const filters = make('div', { class: 'bar', role: 'group', 'aria-label': 'Which scans' });
  const list = make('div', {});
  const pages = make('div', { class: 'bar pages' });
  const said = make('p', { class: 'quiet', role: 'status' }, 'Loading ...');
  const out = make('div', {});
  let shown = '';
  let asking = null;
  let timer = 0;

  const change = (what, focus = false) => {
    Object.assign(asked, { page: 1 }, what);
    load(focus);
  };
  const search = make('input', {
    type: 'search', placeholder: 'Search', 'aria-label': 'Search scans by name', value: asked.search,
    oninput: event => { clearTimeout(timer); timer = setTimeout(() => change({ search: event.target.value }), 200); },
  });
  const structure = make('select', { 'aria-label': 'Structure whose volume counts', hidden: asked.order !== 'volume', onchange: event => change({ structure: event.target.value }) });
  const direction = make('button', { type: 'button', onclick: () => change({ descending: !asked.descending }) });
  const sort = key => change({ order: key, descending: asked.order === key ? !asked.descending : false });
  const orders = make('select', { onchange: event => change({ order: event.target.value }) }, ORDERS.map(([key, text]) => option(key, text, asked.order)));
  const shapes = make('div', { class: 'bar', role: 'group', 'aria-label': 'Shown as' });
  const showShapes = () => shapes.replaceChildren(...[['pictures', 'Pictures'], ['table', 'Table']].map(([key, text]) => make(
    'button', { type: 'button', 'aria-pressed': String(shape === key), onclick: () => { shape = key; shown = ''; showShapes(); load(); } }, text)));
  showShapes();

  const next = make('div', {});
  main.append(
    make('h1', {}, 'Study'), next, out, filters,
    make('div', { class: 'bar' }, search, make('label', {}, 'Sort by', orders), structure, direction, shapes), said, list, pages);

  async function load(focus = false) {
    asking?.abort();
    asking = new AbortController();
    try {
      const answer = await get('scans', { ...asked }, asking.signal);
      asked.page = answer.page;
      order = answer.names;
      const text = JSON.stringify([answer, asked, shape]);
      if (text !== shown) {
        shown = text;
        draw(answer);
      }
      if (focus) {
        said.scrollIntoView({ block: 'nearest' });
      }
    } catch (error) {
      if (error.name !== 'AbortError') {
        shown = '';
        said.textContent = error.message;
      }
    }
  }

  function draw(answer) {
    const { counts } = answer;
    filters.replaceChildren(...FILTERS.filter(([key, , count]) => key === '' || counts[count] || asked.state === key).map(([key, text, count]) => make(
      'button', { type: 'button', 'aria-pressed': String(asked.state === key), onclick: () => change({ state: key }) }, `${text} ${counts[count]}`)));
    structure.replaceChildren(...answer.structures.map(each => option(each.name, each.name, asked.structure)));
    structure.hidden = asked.order !== 'volume';
    if (asked.order === 'volume' && !asked.structure && answer.structures.length) {
      change({ structure: answer.structures[0].name });
      return;
    }
    orders.value = asked.order;
    direction.textContent = asked.descending ? 'Largest first' : 'Smallest first';
    direction.hidden = asked.order === 'name' && !asked.descending && shape === 'table';
    said.textContent = answer.found === counts.all ? `${counts.all} scans` : `${answer.found} of ${counts.all} scans`;
    const none = make('p', {}, counts.all ? 'No scan is like that.' : 'There is no scan in this study yet.', ' ', make('a', { href: '#/steps' }, 'First steps'));
    const content = shape === 'pictures' ? make('ul', { class: 'cards' }, answer.scans.map(scan => card(scan, answer))) : table(answer, sort);
    list.replaceChildren(answer.scans.length ? content : none);
    const turn = (text, page) => make('button', { type: 'button', disabled: page < 1 || page > answer.pages, onclick: () => { asked.page = page; load(true); } }, text);
    pages.replaceChildren(...(answer.pages > 1 ? [turn('First', 1), turn('Back', answer.page - 1), `Page ${answer.page} of ${answer.pages}`, turn('On', answer.page + 1), turn('Last', answer.pages)] : []));
    const files = Object.entries(answer.left_out);
    out.replaceChildren(...(files.length ? [make('details', { class: 'banner' }, make('summary', {}, `${files.length} file${files.length === 1 ? ' is' : 's are'} left out`),
      make('ul', {}, files.map(([file, reason]) => make('li', {}, make('strong', {}, file), `: ${reason}`))))] : []));
  }

  const keys = event => {
    if (event.key === '/' && !/input|select|textarea/i.test(event.target.tagName)) {
      event.preventDefault();
      search.focus();
    }
  };
  document.addEventListener('keydown', keys);
  let told = '';
  const end = listen(state => {
    const now = JSON.stringify([state.next, state.jobs.batch_infer.id, state.jobs.train.id]);
    if (now !== told) {
      told = now;
      next.replaceChildren(...(['review', 'done'].includes(state.next.step) ? [] : [nextStep(state)]));
    }
  });
  const again = setInterval(() => document.hidden || load(), REFRESH);
  load();
  return () => {
    asking?.abort();
    end();
    clearInterval(again);
    clearTimeout(timer);
    document.removeEventListener('keydown', keys);
  };
}
