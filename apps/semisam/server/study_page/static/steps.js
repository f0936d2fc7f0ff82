// First steps: what to do with an empty study, and what comes next.
import { get, lacking, post } from './api.js';
import { make, notify } from './dom.js';
import { listen } from './live.js';

/** What to do next, with a way to do it. */
export function nextStep({ next, jobs }) {
  const busy = { carry: jobs.batch_infer.id && 'The scans are being labelled. ', train: jobs.train.id && 'A network is being trained. ' }[next.step];
  if (busy) {
    return make('div', { class: 'banner good' }, busy, make('a', { href: '#/work' }, 'How far it is'));
  }
  const go = (text, hash) => make('a', { class: 'button', href: hash }, text);
  const ways = {
    add: () => go('How', '#/steps'),
    outline: () => go('Which scan, and how', '#/steps'),
    carry: () => lacking('administer') ? make('span', { class: 'quiet' }, lacking('administer')) : make('button', { type: 'button', class: 'main', onclick: event => carry(event.target) }, 'Carry over to all'),
    train: () => go('To the training', '#/work'),
    review: () => go('To the scans', '#/'),
    done: () => go('To the scans', '#/'),
  };
  const way = ways[next.step]();
  const here = way.hash !== undefined && way.hash === window.location.hash;
  return make('div', { class: `banner ${next.step === 'done' ? 'good' : ''}` }, make('strong', {}, 'Next: '), next.text, ' ', here ? null : way);
}

async function carry(button) {
  button.disabled = true;
  try {
    await post('carry', { model: 'propagate' });
    notify('The outlines are being carried over.');
    window.location.hash = '#/work';
  } catch (error) {
    notify(error.message, { bad: true });
    button.disabled = false;
  }
}

function copied(text) {
  const field = make('input', { value: text, readonly: true, 'aria-label': 'Address of this server', size: 32 });
  return make('span', { class: 'bar' }, field, make('button', {
    type: 'button', onclick: async () => {
      field.select();
      try {
        await navigator.clipboard.writeText(text);
        notify('Copied.');
      } catch {
        notify('Press Ctrl C: the address is selected.');
      }
    },
  }, 'Copy'));
}

/** Show the first steps in an element; returns what ends it. */
export function steps(main) {
  const next = make('div', {});
  const which = make('div', {});
  const server = window.location.href.split('/semisam/')[0];
  let shown = '';
  main.append(
    make('h1', {}, 'First steps'), next,
    make('section', {}, make('h2', {}, '1. Outline one scan'), which,
      make('div', { class: 'columns' },
        make('section', {}, make('h3', {}, 'In 3D Slicer'), make('ol', {},
          make('li', {}, 'Install the extension ', make('strong', {}, 'MONAI Label'), ' once, and open its module.'),
          make('li', {}, 'Enter the address of this server and connect: ', copied(server)),
          make('li', {}, 'Choose the strategy ', make('strong', {}, 'template'), ' and press ', make('strong', {}, 'Next Sample'), '.'),
          make('li', {}, 'Outline each structure with the tools of Segment Editor, or by clicks (SmartEdit).'),
          make('li', {}, 'Press ', make('strong', {}, 'Submit Label'), '. It is final from then on: nothing but a person changes it.'))),
        make('section', {}, make('h3', {}, 'In OHIF, for a study on a DICOM server'), make('ol', {},
          make('li', {}, 'Open ', make('a', { href: '../ohif/', target: '_blank', rel: 'noopener' }, 'OHIF'), ' and the exam with ', make('strong', {}, 'MONAI Label'), '.'),
          make('li', {}, 'Press the round button beside the address.'),
          make('li', {}, 'Open ', make('strong', {}, 'Point Prompts'), ', choose a structure, click inside it, and press ', make('strong', {}, 'Run'), '.'),
          make('li', {}, 'In the list of segments: ', make('strong', {}, 'Export & Download'), ', ', make('strong', {}, 'Export DICOM SEG'), '.')),
          make('h3', {}, 'With another program'),
          make('p', {}, 'Open the scan here and bring the label as a file: ', make('strong', {}, 'Outline from a file'), '. Of DICOM files in a folder, OHIF makes one: open ', make('a', { href: '../ohif/local', target: '_blank', rel: 'noopener' }, 'OHIF with files of this computer'), ', outline as above, and choose ', make('strong', {}, 'Download DICOM SEG'), '.')))),
    make('section', {}, make('h2', {}, '2. Carry it over'), make('p', {}, 'The outline is carried over to all other scans. No network is trained for this.')),
    make('section', {}, make('h2', {}, '3. Look at the scans'), make('p', {}, 'On ', make('a', { href: '#/' }, 'Study'), ' each scan shows what was found. Accept what is good (', make('kbd', {}, 'a'), '), send back what is not (', make('kbd', {}, 'r'), '): what is sent back is offered first for outlining.')),
    make('section', {}, make('h2', {}, '4. Train, and look again'), make('p', {}, 'On ', make('a', { href: '#/work' }, 'Work'), ' a network is trained on all of it. It labels the study anew, and says where it is unsure.')));

  async function suggest(state) {
    const now = JSON.stringify(state.counts);
    if (now === shown) {
      return;
    }
    shown = now;
    if (!state.counts.all) {
      which.replaceChildren(make('p', {}, 'There is no scan in this study yet. Copy NIfTI, NRRD or MetaImage files, pictures, or a folder for each DICOM series into the folder that the server was started with (or send series to its DICOM server): they appear here within seconds.'));
      return;
    }
    try {
      const found = await get('first');
      const link = found.scan ? make('a', { href: `#/scan/${encodeURIComponent(found.scan)}` }, found.title) : null;
      which.replaceChildren(make('p', {}, ...(link ? ['Begin with ', make('strong', {}, link), '. ', found.reason] : ['Every scan has a final label.'])));
    } catch (error) {
      which.replaceChildren(make('p', { class: 'banner bad' }, error.message));
    }
  }

  return listen(state => {
    next.replaceChildren(nextStep(state));
    suggest(state);
  });
}
