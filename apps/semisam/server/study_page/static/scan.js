// One scan: its planes, what lies over them, and what a reader does with it.
import { address, get, lacking, post, reader, send } from './api.js';
import { dot, make, moment, notify } from './dom.js';
import { askReader } from './reader.js';
import { Plane, Slices } from './planes.js';
import { order, qualityOf, stateBadge, volumesOf } from './study.js';

const WORDS = { final: 'Final label', 'pseudo-label': 'Pseudo-label', prediction: 'Prediction', uncertainty: 'Uncertainty' };
const DID = { accept: 'accepted it', send_back: 'sent it back', undo: 'took that back' };
const CT = [['Soft tissue', 400, 40], ['Lung', 1500, -600], ['Bone', 2000, 400], ['Brain', 80, 40]];

/** What stays from scan to scan: how a reader looks at them. */
const kept = { layers: {}, hidden: new Set(), window: null };

function nextOf(name, step) {
  const at = order.indexOf(name);
  return at < 0 ? undefined : order[at + step];
}

function place(name) {
  return `#/scan/${encodeURIComponent(name)}`;
}

function open(name) {
  window.location.hash = place(name);
}

/** Show a scan in an element; returns what ends it. */
export function scan(main, name) {
  let over = false;
  let close = () => {};
  main.append(make('p', { class: 'quiet' }, `Loading ${name} ...`));

  async function load(hold = null) {
    try {
      if (!order.length) {
        const found = await get('scans', { size: 1 });
        order.push(...found.names);
      }
      const known = await get('scan', { image: name });
      if (!over) {
        close();
        close = draw(main, known, load, hold);
        ahead(name);
      }
    } catch (error) {
      if (!over) {
        main.replaceChildren(
          make('h1', {}, name), make('p', { class: 'banner bad', role: 'alert' }, error.message),
          make('p', {}, make('a', { href: '#/' }, 'Back to the study'), ' ', nextOf(name, 1) ? make('button', { type: 'button', onclick: () => open(nextOf(name, 1)) }, 'Next scan') : null));
      }
    }
  }

  load();
  return () => {
    over = true;
    close();
  };
}

/** Let the server read the next scan already. */
function ahead(name) {
  const next = nextOf(name, 1);
  if (next) {
    get('scan', { image: next }).catch(() => {});
  }
}

function draw(main, known, reload, hold) {
  const slices = new Slices(known);
  const colours = Object.fromEntries(known.structures.map(each => [each.value, [1, 3, 5].map(at => parseInt(each.colour.slice(at, at + 2), 16))]));
  const [low, high] = known.window;
  const isCt = known.span[0] < -500 && known.span[1] > 500; // of other scans, intensities mean something else each time
  const label = known.layers.final ? 'final' : 'pseudo-label';
  const view = {
    scan: known, slices, colours, hidden: kept.hidden,
    index: hold?.index ?? Object.fromEntries(Object.entries(known.planes).map(([plane, each]) => [plane, each.middle])),
    window: (isCt && kept.window?.[0]) || Math.max(high - low, 1e-6), level: isCt && kept.window ? kept.window[1] : (low + high) / 2,
    layers: Object.fromEntries(Object.keys(WORDS).filter(layer => known.layers[layer]).map(layer => [layer, kept.layers[layer] ?? (layer === label ? 'contour' : 'off')])),
    failed: error => (error.status === 404 && !hold?.isAnew ? anew() : notify(error.message, { bad: true })),
  };
  let isOld = false;
  /** Somebody else has taken the label back, or the scan away. */
  function anew() {
    if (!isOld) {
      isOld = true; // many slices may say so
      reload({ index: view.index, isAnew: true }); // once: what is missing then is told
    }
  }
  const planes = Object.keys(known.planes).map(plane => new Plane(plane, view, () => redraw()));
  const grip = (text, property, least, most) => {
    const input = make('input', { type: 'range', min: 0, max: 1000, value: 0, 'aria-label': text });
    const from = value => (property === 'window' ? least * Math.exp((value / 1000) * Math.log(most / least)) : least + (value / 1000) * (most - least));
    const to = value => (property === 'window' ? (1000 * Math.log(Math.max(value, least) / least)) / Math.log(most / least) : (1000 * (value - least)) / (most - least));
    input.addEventListener('input', () => { view[property] = from(Number(input.value)); redraw(); });
    return { input, show: () => { input.value = to(view[property]); input.setAttribute('aria-valuetext', String(Math.round(view[property]))); } };
  };
  const span = Math.max(known.span[1] - known.span[0], 1e-6);
  const width = grip('Window', 'window', span / 1000, 2 * span);
  const level = grip('Level', 'level', known.span[0], known.span[1]);
  const numbers = make('span', { class: 'small quiet' });
  let drawing = 0;
  function redraw() {
    kept.window = [view.window, view.level];
    cancelAnimationFrame(drawing);
    drawing = requestAnimationFrame(() => {
      planes.forEach(plane => plane.draw());
      width.show();
      level.show();
      const digits = span < 20 ? 2 : 0;
      numbers.textContent = `${view.window.toFixed(digits)} wide at ${view.level.toFixed(digits)}`;
    });
  }
  const preset = (text, w, l) => make('button', { type: 'button', onclick: () => { view.window = w; view.level = l; redraw(); } }, text);

  const isOpen = !known.layers.final;
  const refused = lacking('annotate');
  const can = Boolean(known.version) && isOpen && !refused;
  const accept = make('button', { type: 'button', class: 'main', disabled: !can, onclick: () => act('accept') }, 'Accept ', make('kbd', {}, 'a'));
  const back = make('button', { type: 'button', class: 'danger', disabled: !can || Boolean(known.sent_back), onclick: () => act('send_back') }, 'Send back ', make('kbd', {}, 'r'));
  const next = nextOf(known.name, 1);
  const before = nextOf(known.name, -1);
  const on = make('button', { type: 'button', disabled: !next, onclick: () => open(next) }, 'Next ', make('kbd', {}, 'n'));
  const to = make('button', { type: 'button', disabled: !before, onclick: () => open(before) }, 'Back ', make('kbd', {}, 'p'));
  const mine = Boolean(known.can_undo) && known.can_undo === reader() && !refused;
  const undo = make('button', { type: 'button', hidden: !mine, onclick: () => takeBack(known.name) }, 'Take back what you did last ', make('kbd', {}, 'u'));
  let busy = false;

  async function act(what) {
    const button = what === 'accept' ? accept : back;
    if (busy || button.disabled) {
      return;
    }
    if (!reader() && !(await askReader())) {
      notify('Say who you are first: your name stands with what you accept or send back.', { bad: true });
      return;
    }
    busy = true;
    button.disabled = true;
    try {
      const answer = await post(what, { image: known.name, version: known.version, by: reader() });
      const text = what === 'accept' ? `${known.title} is accepted.` : `${known.title} is sent back: it is offered first for outlining.`;
      const last = next ? [] : ['That was the last scan of this list.'];
      notify([text, ...(answer.warnings ?? []), ...last].join(' '), { action: { text: 'Take it back', run: () => takeBack(known.name) } });
      if (next) {
        open(next);
      } else {
        await reload({ index: view.index });
      }
    } catch (error) {
      notify(error.message, { bad: true });
      await reload({ index: view.index });
    } finally {
      busy = false;
    }
  }

  let isLeft = false;
  async function takeBack(name) {
    slices.close(); // those on their way may be of the label that goes
    let words;
    try {
      const answer = await post('undo', { image: name, by: reader() });
      words = [[`What was done to ${known.title} is taken back.`, ...answer.warnings].join(' ')];
    } catch (error) {
      words = [error.message, { bad: true }];
    }
    notify(...words);
    if (window.location.hash !== place(name)) {
      open(name);
    } else if (isLeft) { // asked for in a notice, and the scan was opened anew since
      window.dispatchEvent(new HashChangeEvent('hashchange'));
    } else {
      await reload({ index: view.index });
    }
  }

  const layers = make('fieldset', {}, make('legend', {}, 'Shown over the scan'), Object.keys(view.layers).map(layer => {
    const choose = make('select', { 'aria-label': WORDS[layer], onchange: () => { kept.layers[layer] = choose.value; view.layers[layer] = choose.value; redraw(); } },
      [['off', 'not shown'], ...(layer === 'uncertainty' ? [['heat', 'shown']] : [['contour', 'contours'], ['fill', 'filled']])].map(([value, text]) => make('option', { value, selected: view.layers[layer] === value }, text)));
    return make('label', {}, choose, ` ${WORDS[layer]}${layer === 'prediction' ? ' (dashed)' : ''}`);
  }), Object.keys(view.layers).length ? null : make('p', { class: 'quiet small' }, 'Nothing yet.'));
  const structures = make('fieldset', {}, make('legend', {}, 'Structures'), known.structures.map(each => make(
    'label', {}, make('input', { type: 'checkbox', checked: !view.hidden.has(each.value), onchange: event => { event.target.checked ? view.hidden.delete(each.value) : view.hidden.add(each.value); redraw(); } }),
    dot(each.colour), each.name)));
  const quality = qualityOf(known);
  const side = make(
    'aside', { class: 'side', 'aria-label': 'About this scan' },
    make('p', {}, ...stateBadge(known, known.states)),
    known.state === 'none' ? null : make('p', { class: 'small' }, known.words, known.saved ? ', ' : '', known.saved ? moment(known.saved) : ''),
    quality ? make('p', { class: 'small' }, 'Estimated quality ', quality) : null,
    known.review.length ? make('div', { class: 'banner small' }, make('ul', { class: 'volumes' }, known.review.map(text => make('li', {}, text)))) : null,
    layers, structures,
    make('fieldset', {}, make('legend', {}, 'Window and level'), make('label', {}, 'Window', width.input), make('label', {}, 'Level', level.input), numbers,
      make('div', { class: 'bar' }, preset('As at first', Math.max(high - low, 1e-6), (low + high) / 2), isCt ? CT.map(each => preset(...each)) : null)),
    make('h2', {}, 'Volumes'), volumesOf(known, known.structures),
    make('h2', {}, 'Elsewhere'), elsewhere(known), isOpen && !refused ? outlineFrom(known, () => reload({ index: view.index })) : null,
    known.history.length > 1 ? make('div', {}, make('h2', {}, 'Labels so far'), make('ul', { class: 'volumes small' }, known.history.map(each => make('li', {}, `${each.words}, `, moment(each.saved))))) : null,
    known.acts.length ? make('div', {}, make('h2', {}, 'What readers have done'), make('ul', { class: 'volumes small' }, known.acts.map(each => make('li', {}, `${each.by} ${DID[each.act]}, `, moment(each.at))))) : null,
    make('details', { class: 'small' }, make('summary', {}, 'Keys'), make('p', {}, make('kbd', {}, 'a'), ' accept, ', make('kbd', {}, 'r'), ' send back, ', make('kbd', {}, 'n'), ' next, ', make('kbd', {}, 'p'), ' back, ', make('kbd', {}, 'u'), ' take back, arrows and ', make('kbd', {}, 'Page up'), ' ', make('kbd', {}, 'Page down'), ' slices. The wheel goes through slices, dragging changes window and level, a click chooses the slices of the other planes.')));
  const at = order.indexOf(known.name);
  main.replaceChildren(
    make('div', { class: 'bar' }, make('a', { href: '#/' }, 'Study'), make('h1', { class: 'title' }, known.title), make('span', { class: 'quiet' }, [known.about, at < 0 ? '' : `${at + 1} of ${order.length}`].filter(Boolean).join(', '))),
    make('div', { class: 'bar acts', role: 'group', 'aria-label': 'What to do with this scan' }, accept, back, to, on, undo),
    refused && known.version && isOpen ? make('p', { class: 'small quiet' }, `Accept, Send back: ${refused}`) : '',
    make('div', { class: 'scan' }, make('div', { class: `planes planes-${planes.length}` }, planes.map(plane => plane.element)), side));
  redraw();

  const keys = event => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]') || /^(textarea|select)$/i.test(event.target.tagName) || (event.target.tagName === 'INPUT' && event.target.type !== 'range' && event.target.type !== 'checkbox')) {
      return;
    }
    const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    const does = { a: () => act('accept'), r: () => act('send_back'), n: () => next && open(next), p: () => before && open(before), u: () => mine && takeBack(known.name) }[event.key];
    if (does) {
      event.preventDefault();
      does();
    } else if (steps && !event.defaultPrevented && event.target.tagName !== 'INPUT' && event.target.tagName !== 'CANVAS') {
      event.preventDefault();
      planes[0].go(planes[0].index + steps);
    }
  };
  document.addEventListener('keydown', keys);
  return () => {
    isLeft = true;
    cancelAnimationFrame(drawing);
    document.removeEventListener('keydown', keys);
    planes.forEach(plane => plane.close());
    slices.close();
  };
}

/** A label that was drawn with another program, as a file. */
function outlineFrom(known, done) {
  const file = make('input', { type: 'file', required: true });
  const keep = make('button', {}, 'Make it final');
  return make(
    'form', {
      class: 'stack small', onsubmit: async event => {
        event.preventDefault();
        if (!reader() && !(await askReader())) {
          notify('Say who you are first: your name stands with what you outline.', { bad: true });
          return;
        }
        keep.disabled = true;
        try {
          const answer = await send('outline', { image: known.name }, { by: reader(), file: file.files[0] });
          notify([`${known.title} is outlined.`, ...answer.warnings].join(' '));
          await done();
        } catch (error) {
          notify(error.message, { bad: true });
        } finally {
          keep.disabled = false;
        }
      },
    },
    make('label', {}, 'Outline from a file (label map, DICOM SEG, RTSTRUCT)', file), keep);
}

function elsewhere(known) {
  const server = window.location.href.split('/semisam/')[0];
  const tag = known.layers.final ? 'final' : 'original';
  const has = known.layers.final || known.layers['pseudo-label'];
  return make(
    'div', { class: 'stack small' },
    known.exam ? make('a', { class: 'button', target: '_blank', rel: 'noopener', href: `../ohif/monai-label?StudyInstanceUIDs=${encodeURIComponent(known.exam)}` }, 'Open in OHIF') : null,
    make('span', {}, 'In 3D Slicer, module MONAI Label: server ', make('code', {}, server), ', scan ', make('code', {}, known.name)),
    has ? make('a', { href: address('label', { image: known.name, tag, form: 'nifti' }), download: '' }, 'Label as NIfTI') : null,
    has && known.exam ? make('a', { href: address('label', { image: known.name, tag, form: 'seg' }), download: '' }, 'Label as DICOM SEG') : null);
}
