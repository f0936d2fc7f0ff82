// The panel *MONAI Label*: its fields and its button say how things stand now, its list of strategies does what it shows,
// and the next sample comes with its reason.
(() => {
  const { semisam } = window;
  const { server } = semisam;
  const BELOW = 'semisam-study';

  // The panel writes how far things are white on white.
  const readable = document.createElement('style');
  readable.textContent =
    '.monaiLabelPanel .w3-container { color: #111 !important; } .nextSampleForm .semisam-reason { margin: 0 0 12px; color: #fff; }';
  document.head.append(readable);

  // --- React's own state, which nothing else sets ---------------------------------------------------------------------

  /** The component that an element belongs to and whose state has a key. */
  function componentOf(element, key) {
    const name = element && Object.keys(element).find(each => each.startsWith('__reactFiber$'));
    let fiber = name && element[name];
    while (fiber) {
      const { stateNode } = fiber;
      if (stateNode?.state && !(stateNode instanceof Node) && key in stateNode.state && stateNode.setState) {
        return stateNode;
      }
      fiber = fiber.return;
    }
    return undefined;
  }

  function tabOf(panel) {
    return panel.querySelector("input.tab-switch[name='activelearning']")?.closest('.tab');
  }

  function takeOver(panel, { counts, jobs, training }) {
    const table = tabOf(panel);
    const button = table && componentOf(table.querySelector('button'), 'training');
    if (!button) {
      return;
    }
    const runs = Boolean(jobs.train.id);
    if (button.state.training !== runs) {
      button.setState({ training: runs });
    }
    const far = runs && training.total_epochs && !['starting', 'done', 'failed', 'killed'].includes(training.stage);
    const stats = {
      best_metric: training.best_metric,
      epoch: far ? training.epoch : 0,
      total_epochs: training.total_epochs || 1,
      ...(far && training.epoch ? {} : { total_time: '0' }), // else the panel takes 0 epochs for 1
    };
    const owner = componentOf(panel, 'isDataReady');
    const now = JSON.stringify([counts.done, counts.all, stats]);
    if (owner?.state.info?.data && owner.semisamShown !== now) {
      owner.semisamShown = now;
      owner.setState(({ info }) => ({
        info: { ...info, data: { ...info.data, datastore: { ...info.data.datastore, completed: counts.done, total: counts.all }, train_stats: { semisam: stats } } },
      }));
    }
    const cell = [...table.querySelectorAll('td')].find(each => each.textContent === 'Training:')?.nextElementSibling;
    if (cell && runs) {
      setTimeout(() => { cell.title = jobs.train.words; }, 100); // after React's own
    }
  }

  // The panel's own handler is missing: whatever is chosen, *random* is asked.
  document.addEventListener('change', event => {
    const panel = event.target.closest?.('.monaiLabelPanel');
    if (panel && event.target.matches('select.actionInput') && tabOf(panel)?.contains(event.target)) {
      componentOf(event.target, 'strategy')?.setState({ strategy: event.target.value });
    }
  });

  // The same colours as everywhere else: the panel is asked for them when it makes its segments.
  let colours = null;
  async function colour(panel) {
    const owner = componentOf(panel, 'options');
    if (!owner?.segmentColor || owner.semisamColours) {
      return;
    }
    owner.semisamColours = true;
    const theirs = owner.segmentColor.bind(owner);
    owner.segmentColor = label => colours?.[label] ?? theirs(label);
    try {
      const { structures } = await (await fetch(`${server}semisam/api/structures`, { credentials: 'same-origin' })).json();
      colours = Object.fromEntries(structures.map(({ name, colour: text }) => [name, [...[1, 3, 5].map(at => parseInt(text.slice(at, at + 2), 16)), 255]]));
    } catch {
      owner.semisamColours = false; // when the server is back
      owner.segmentColor = theirs;
    }
  }

  // --- below the panel: a way to the page of the study, and how things stand ------------------------------------------

  function standing({ counts, jobs, notice }) {
    const words = [`${counts.done} of ${counts.all} scans done, ${counts.labelled} with a pseudo-label.`];
    for (const job of Object.values(jobs)) {
      if (job.id) {
        words.push(`${job.words}.`);
      } else if (job.failure) {
        words.push(`${job.name} has failed: ${job.failure}`);
      }
    }
    return [...words, notice].filter(Boolean).join(' ');
  }

  async function look(box) {
    const text = box.querySelector('p');
    try {
      const answer = await fetch(`${server}semisam/api/work`, { credentials: 'same-origin' });
      if (!answer.ok) {
        const { detail } = await answer.json().catch(() => ({}));
        text.textContent = typeof detail === 'string' ? detail : `The server has answered with status ${answer.status}.`;
        return;
      }
      const state = await answer.json();
      text.textContent = standing(state);
      const panel = box.closest('.monaiLabelPanel');
      if (panel) {
        takeOver(panel, state);
      }
    } catch {
      text.textContent = semisam.SILENT;
    }
  }

  function below(panel) {
    const box = document.createElement('div');
    box.id = BELOW;
    box.style.cssText = 'padding:6px 8px;color:#fff;font:14px/1.4 sans-serif;';
    const link = document.createElement('a');
    link.href = `${server}semisam/`;
    link.target = '_blank';
    link.rel = 'noopener';
    link.textContent = 'All scans of the study';
    link.style.cssText = 'color:#5acce6;text-decoration:underline;';
    const text = document.createElement('p');
    text.setAttribute('role', 'status');
    text.style.cssText = 'margin:4px 0 0;overflow-wrap:anywhere;';
    box.append(link, text);
    panel.append(box);
    look(box);
  }

  semisam.lookAgain = () => {
    const box = document.getElementById(BELOW);
    if (box) {
      look(box);
    }
  };

  let looked = 0;
  setInterval(() => {
    const panel = document.querySelector('.monaiLabelPanel'); // drawn anew at times, and takes what is in it along
    const box = document.getElementById(BELOW);
    looked += 1;
    if (panel) {
      colour(panel);
    }
    if (panel && !box) {
      below(panel);
    } else if (box && !document.hidden && looked % 3 === 0) {
      look(box);
    }
  }, 1000);

  // --- the next sample ------------------------------------------------------------------------------------------------

  const UIDS = ['Study Instance UID', 'Series Instance UID'];

  function complete(form, sample) {
    const reason = document.createElement('p');
    reason.className = 'semisam-reason';
    form.prepend(reason);
    if (!sample.id) {
      reason.textContent = 'Every scan has a final label: there is nothing left to outline.';
      form.querySelector('table')?.remove();
      form.querySelector('button')?.remove();
      return;
    }
    reason.textContent = sample.reason ? `Why: ${sample.reason}` : 'The server gives no reason.';
    for (const row of form.querySelectorAll('tbody tr')) {
      if (UIDS.includes(row.firstElementChild.textContent)) {
        row.remove();
      }
    }
  }

  semisam.sampled = body => {
    let sample = {};
    try {
      sample = JSON.parse(body) ?? {};
    } catch {
      return;
    }
    let tries = 0;
    const timer = setInterval(() => {
      const forms = document.querySelectorAll('.nextSampleForm');
      const form = [...forms].find(each => each.querySelector('table.optionsTable') && !each.querySelector('.nextSampleForm'));
      tries += 1;
      if (form && !form.querySelector('.semisam-reason')) {
        complete(form, sample);
      }
      if (form || tries > 60) {
        clearInterval(timer);
      }
    }, 50);
  };
})();
