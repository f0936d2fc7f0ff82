// The work: what runs and how far it is, starting and stopping it, and the trainings of before.
import { address, get, lacking, post } from './api.js';
import { make, notify } from './dom.js';
import { listen } from './live.js';
import { nextStep } from './steps.js';

const STATES = { DONE: 'has ended well', ERROR: 'has failed', STOPPED: 'was stopped', RUNNING: 'runs', SUBMITTED: 'is being started' };

async function attempt(button, path, content, done) {
  button.disabled = true;
  try {
    await post(path, content);
    notify(done);
    return '';
  } catch (error) {
    return error.message;
  } finally {
    button.disabled = false;
  }
}

/** A kind of job: its controls, its progress, its log, its failure. */
class Job {
  constructor(kind, role, title, help, controls, start) {
    this.kind = kind;
    const refused = lacking(role);
    this.start = make('button', { type: 'button', class: 'main', disabled: Boolean(refused), onclick: () => this.begin(start) }, 'Start');
    this.stop = make('button', { type: 'button', class: 'danger', hidden: true, onclick: () => this.end() }, 'Cancel');
    this.bar = make('progress', { max: 1, 'aria-label': `Progress of: ${title}`, hidden: true });
    this.words = make('p', { role: 'status' });
    this.refused = make('p', { class: 'banner bad', role: 'alert', hidden: true });
    this.failed = make('p', { class: 'banner bad', hidden: true });
    this.waiting = make('p', { class: 'small quiet' });
    this.log = make('pre', { tabindex: 0, 'aria-label': `Log of: ${title}` });
    this.details = make('details', { class: 'small' }, make('summary', {}, 'Log'), this.log);
    this.element = make(
      'section', { class: 'job-card' }, make('h2', {}, title), make('p', { class: 'small quiet' }, help), controls,
      make('div', { class: 'bar' }, this.start, this.stop), refused ? make('p', { class: 'small quiet' }, refused) : null, this.refused, this.words, this.bar, this.waiting, this.failed, this.details);
    this.id = '';
  }

  async begin(start) {
    const [path, content, done] = start();
    this.refuse(await attempt(this.start, path, content, done));
  }

  async end() {
    this.refuse(await attempt(this.stop, 'stop', { kind: this.kind, id: this.id }, 'It is being stopped. What is done so far stays.'));
  }

  refuse(text) {
    this.refused.hidden = !text;
    this.refused.textContent = text;
  }

  show(job, training) {
    this.id = job.id;
    this.stop.hidden = !job.id || Boolean(lacking('administer'));
    this.start.textContent = job.id ? 'Start one more after this' : 'Start';
    this.bar.hidden = !job.id;
    if (job.progress === null || job.progress === undefined) {
      this.bar.removeAttribute('value');
    } else {
      this.bar.value = job.progress;
    }
    const asked = job.asked.recipe ?? job.asked.method ?? job.asked.model;
    const ended = job.status ? `The last one${asked && asked !== 'semisam' ? ` (${asked})` : ''} ${STATES[job.status] ?? job.status}; it was started ${job.since}.` : '';
    const words = job.elsewhere || job.words || ended;
    if (this.words.textContent !== words) {
      this.words.textContent = words;
    }
    const message = this.kind === 'train' && !job.id && !job.failure && training.message ? training.message : '';
    this.waiting.textContent = [message, job.waiting.length ? `${job.waiting.length} more wait${job.waiting.length === 1 ? 's' : ''}.` : ''].filter(Boolean).join(' ');
    this.failed.hidden = !job.failure;
    if (this.failed.textContent !== job.failure) {
      this.failed.textContent = job.failure;
    }
    const log = job.log.join('\n');
    this.details.hidden = !log;
    if (this.log.textContent !== log) {
      const atEnd = this.log.scrollTop + this.log.clientHeight >= this.log.scrollHeight - 4;
      this.log.textContent = log;
      if (atEnd) {
        this.log.scrollTop = this.log.scrollHeight;
      }
    }
  }
}

function field(option) {
  const help = `help-${option.name}`;
  const shared = { id: `option-${option.name}`, name: option.name, 'aria-describedby': help };
  const input = option.kind === 'choice'
    ? make('select', shared, option.choices.map((each, place) => make('option', { value: each }, place === 0 ? `${each} (default)` : each)))
    : option.kind === 'switch'
      ? make('input', { ...shared, type: 'checkbox', checked: option.default })
      : make('input', { ...shared, type: 'number', min: 0, value: option.default });
  const note = option.kind === 'number' ? ` Default: ${option.default}.` : option.kind === 'switch' ? ` Default: ${option.default ? 'on' : 'off'}.` : '';
  return make('div', { class: 'option' }, make('label', { for: shared.id }, option.name), input, make('p', { class: 'small quiet', id: help }, option.help + note));
}

/** What differs from the defaults. */
function chosen(form, options) {
  const found = {};
  for (const option of options) {
    const input = form.elements[option.name];
    const value = option.kind === 'switch' ? input.checked : option.kind === 'number' ? Number(input.value) : input.value;
    if (value !== option.default) {
      found[option.name] = value;
    }
  }
  return found;
}

function size([free, total]) {
  return `${free} of ${total} GiB free`;
}

/** Show the work in an element; returns what ends it. */
export function work(main) {
  let over = false;
  const step = make('div', {});
  const model = make('select', { 'aria-label': 'What labels the scans' },
    make('option', { value: 'propagate' }, 'Carry the outlines over'), make('option', { value: 'segment' }, 'Ask the trained network'));
  const what = make('select', { 'aria-label': 'What is to be found out' },
    make('option', { value: 'judge' }, 'How good each pseudo-label is'), make('option', { value: 'compare' }, 'Which scan stands for most of them'));
  const form = make('form', { class: 'options', onsubmit: event => event.preventDefault() });
  let options = [];
  const jobs = {
    batch_infer: new Job('batch_infer', 'administer', 'Label all scans', 'All scans without a final label get a pseudo-label. Final labels stay as they are.', model, () => ['carry', { model: model.value }, 'All scans are being labelled.']),
    train: new Job('train', 'administer', 'Train', 'A network learns from the final labels, and from labels that it makes for all other scans. Running it takes minutes to hours; you can close this page meanwhile.', form, () => ['train', { options: chosen(form, options) }, 'The training is started.']),
    scoring: new Job('scoring', 'annotate', 'Judge the scans', 'Estimates how good each pseudo-label is, so that you can look at the worst first; needs no further outline.', what, () => ['score', { what: what.value }, 'The scans are being judged.']),
  };
  const machine = make('dl', { class: 'facts small' });
  const runs = make('div', {});
  main.append(
    make('h1', {}, 'Work'), step, make('div', { class: 'jobs' }, jobs.batch_infer.element, jobs.train.element, jobs.scoring.element),
    make('section', {}, make('h2', {}, 'Trainings so far'), runs), make('section', {}, make('h2', {}, 'This server'), machine));

  get('options').then(answer => {
    options = answer.options;
    const [first, more] = [options.filter(each => ['recipe', 'preset'].includes(each.name)), options.filter(each => !['recipe', 'preset'].includes(each.name))];
    form.replaceChildren(...first.map(field), make('details', {}, make('summary', {}, 'More options'), more.map(field)));
  }, error => notify(error.message, { bad: true }));

  let shownRuns = '';
  async function loadRuns() {
    try {
      const found = await get('runs');
      const text = JSON.stringify([found.runs, Boolean(jobs.train.id)]);
      if (over || text === shownRuns) {
        return;
      }
      shownRuns = text;
      runs.replaceChildren(found.runs.length ? make('div', { class: 'table', role: 'region', 'aria-label': 'Trainings', tabindex: 0 }, make(
        'table', { class: 'rows' },
        make('thead', {}, make('tr', {}, ['Started', 'Recipe', 'Rounds done', 'Report'].map(each => make('th', { scope: 'col' }, each)))),
        make('tbody', {}, found.runs.map((run, place) => make(
          'tr', {}, make('th', { scope: 'row' }, run.started), make('td', { 'data-name': 'Recipe' }, `${run.recipe}, ${run.preset}`),
          make('td', { 'data-name': 'Rounds done' }, run.round === null ? 'none' : String(run.round), run.finished ? '' : place === 0 && jobs.train.id ? ' (it runs)' : ' (not finished: train again to go on)'),
          make('td', { 'data-name': 'Report' }, run.report ? make('a', { href: run.report, target: '_blank', rel: 'noopener' }, 'Report') : 'none yet')))))) : make('p', { class: 'quiet' }, 'None yet.'));
    } catch {
      // Told by the banner about the server.
    }
  }

  const curves = make('div', { class: 'curves' });
  jobs.train.element.append(curves);
  let drawn = '';
  async function loadCurves(training) {
    const now = `${training.start_ts} ${training.epoch} ${training.stage}`;
    if (now === drawn || !training.start_ts) {
      return;
    }
    drawn = now;
    try {
      const [run] = (await get('runs')).runs;
      if (over || !run) {
        return;
      }
      const shown = ['loss', 'agreement', ...run.curves].filter((each, place, all) => run.curves.includes(each) && all.indexOf(each) === place).slice(0, 2);
      curves.replaceChildren(...shown.map(metric => make('figure', {}, make('figcaption', { class: 'small' }, metric), make('img', { src: address('curve', { run: run.name, metric, at: training.epoch }), alt: `Course of ${metric} over the epochs of ${run.started}` }))));
    } catch {
      // The next state brings it.
    }
  }

  const end = listen(state => {
    for (const [kind, job] of Object.entries(jobs)) {
      job.show(state.jobs[kind], state.training);
    }
    step.replaceChildren(nextStep(state));
    const facts = [['Disk', size(state.machine.disk)], ['Memory', size(state.machine.memory)], ...state.machine.gpus.map(gpu => [gpu.name, size(gpu.memory)])];
    if (!state.machine.gpus.length) {
      facts.push(['GPU', 'none: all is computed on the CPU']);
    }
    machine.replaceChildren(...facts.flatMap(([name, text]) => [make('dt', {}, name), make('dd', {}, text)]));
    loadCurves(state.training);
  });
  loadRuns();
  const again = setInterval(loadRuns, 10000);
  return () => {
    over = true;
    end();
    clearInterval(again);
  };
}
