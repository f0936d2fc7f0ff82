// What semisam adds to the OHIF viewer that MONAI Label 0.8.5 brings. It runs after OHIF's own app-config.js and changes
// nothing but `window.config`, a cookie, and how failed requests are told.
(() => {
  const MODE = '@ohif/mode-monai-label';
  const SEGMENTS = '@ohif/extension-cornerstone.panelModule.panelSegmentation';
  const ASKED = /\/(infer|train|activelearning)\/[^/]*$/;
  const STORED = /\/proxy\/dicom\/(\w+\/)?studies(\/[^/]*)?$/;

  // The panel would ask port 8000 of this host. The right server is the one that this page comes from.
  const server = window.location.href.split('/ohif/')[0] + '/';
  document.cookie = 'MONAILABEL_SERVER_URL=' + escape(server);

  // The mode for MONAI Label has no list of segments, and so no way to save them: add OHIF's own.
  const mode = {
    id: MODE,
    modeFactory: async options => {
      const [module] = await options.loadModules([MODE]);
      const made = await module.modeFactory(options);
      for (const route of made.routes) {
        const layout = route.layoutTemplate;
        route.layoutTemplate = where => {
          const page = layout(where);
          page.props.rightPanels = [...page.props.rightPanels, SEGMENTS];
          return page;
        };
      }
      return made;
    },
  };

  // DICOM SEG objects are written with the frames from the last slice along the slice normal to the first, whatever the
  // order of the slices: a segmentation of a series that is numbered the other way would be saved upside down.
  function fromLastToFirst(imageIds) {
    const { cache, metaData } = window.cornerstone;
    const planes = new Map(
      imageIds.map(id => [id, metaData.get('imagePlaneModule', cache.getImage(id).referencedImageId)])
    );
    const { rowCosines: r, columnCosines: c } = planes.get(imageIds[0]);
    const normal = [r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0]];
    const height = id => planes.get(id).imagePositionPatient.reduce((sum, x, axis) => sum + x * normal[axis], 0);
    return [...imageIds].sort((a, b) => height(b) - height(a));
  }

  function inOrder(run) {
    return async options => {
      const { state } = window.cornerstoneTools.segmentation;
      const labelmap = state.getSegmentation(options.segmentationId).representationData.Labelmap;
      const before = labelmap.imageIds;
      labelmap.imageIds = fromLastToFirst(before);
      try {
        return await run(options);
      } finally {
        labelmap.imageIds = before;
      }
    };
  }

  let extensions;
  let notifications;
  const changed = new WeakSet();
  const extension = {
    id: 'semisam',
    preRegistration: ({ extensionManager, servicesManager }) => {
      extensions = extensionManager;
      notifications = servicesManager.services.uiNotificationService;
    },
    onModeEnter: ({ commandsManager }) => {
      for (const name of ['storeSegmentation', 'downloadSegmentation']) {
        const command = commandsManager.getCommand(name, 'SEGMENTATION');
        if (command && !changed.has(command)) {
          changed.add(command);
          command.commandFn = inOrder(command.commandFn);
          // The panel does not say where to, and the command fails without.
          command.options = { ...command.options, dataSource: extensions.getActiveDataSource()[0] };
        }
      }
    },
  };

  // A segmentation that was not stored is told in a box of our own, which stays: OHIF's own message is gone after some
  // seconds, and whoever looked elsewhere would take the work for saved.
  const BOX = 'semisam-not-stored';

  function removeBox() {
    document.getElementById(BOX)?.remove();
  }

  function showBox(reason) {
    removeBox();
    const box = document.createElement('div');
    box.id = BOX;
    box.setAttribute('role', 'alert');
    box.style.cssText =
      'position:fixed;top:64px;left:50%;transform:translateX(-50%);z-index:100000;max-width:560px;padding:16px 20px;' +
      'background:#7f1d1d;color:#fff;border:2px solid #fca5a5;border-radius:8px;font:15px/1.4 sans-serif;';
    const title = document.createElement('strong');
    title.textContent = 'The segmentation is NOT stored';
    const text = document.createElement('p');
    text.style.margin = '8px 0 12px';
    text.textContent = `${reason} What you have drawn is still on this page: do not close it, and export once more.`;
    const close = document.createElement('button');
    close.textContent = 'I have read this';
    close.style.cssText = 'padding:4px 12px;background:#fff;color:#7f1d1d;border-radius:4px;';
    close.onclick = removeBox;
    box.append(title, text, close);
    document.body.append(box);
  }

  // A DICOM server may refuse a file in an answer that is a success otherwise.
  const FAILED = '00081198';

  function holdsFailures(body) {
    try {
      return Boolean(JSON.parse(body)[FAILED]?.Value?.length);
    } catch {
      return new RegExp(`tag="${FAILED}"[^>]*>\\s*<Item`).test(body); // as XML
    }
  }

  function stored(request) {
    const body = bodyOf(request);
    const refused = request.status >= 400 || request.status === 0;
    if (refused || holdsFailures(body)) {
      const fallback = request.status
        ? `The DICOM server has refused it (status ${request.status}). Ask whoever looks after it.`
        : 'The server does not answer. Wait until it does.';
      showBox((refused && detailOf(body)) || fallback);
    } else {
      removeBox();
      notifications?.show({ title: 'Stored', message: 'The segmentation is stored.', type: 'success', duration: 5000 });
    }
  }

  function bodyOf(request) {
    try {
      const { response, responseType } = request;
      if (responseType === 'arraybuffer') {
        return new TextDecoder().decode(response);
      }
      return typeof response === 'string' ? response : JSON.stringify(response);
    } catch {
      return '';
    }
  }

  function detailOf(body) {
    try {
      const { detail } = JSON.parse(body);
      return typeof detail === 'string' ? detail : undefined;
    } catch {
      return undefined;
    }
  }

  // The panel says that something failed; the server says why.
  function explain(request) {
    if (request.status < 400 || !notifications || !ASKED.test(new URL(request.responseURL).pathname)) {
      return;
    }
    const detail = detailOf(bodyOf(request));
    if (detail) {
      // After the panel's own, which would cover it.
      setTimeout(() => notifications.show({ title: 'Reason', message: detail, type: 'error', duration: 20000 }), 500);
    }
  }

  const { open, send } = XMLHttpRequest.prototype;
  const posts = new WeakMap();
  XMLHttpRequest.prototype.open = function (method, url, ...others) {
    if (String(method).toUpperCase() === 'POST') {
      posts.set(this, new URL(url, window.location.href).pathname);
    }
    return open.call(this, method, url, ...others);
  };
  XMLHttpRequest.prototype.send = function (...content) {
    if (posts.has(this) && STORED.test(posts.get(this))) {
      // Whatever the end: also when nobody answers, or the connection breaks.
      this.addEventListener('loadend', () => stored(this));
    } else if (posts.has(this)) {
      this.addEventListener('load', () => explain(this));
    }
    return send.apply(this, content);
  };

  // OHIF's notices lie over the panel's buttons, and stay as long as the mouse is where they are. Beside the panel they are
  // in nobody's way.
  const beside = document.createElement('style');
  beside.textContent = "[data-sonner-toaster][data-x-position='right'] { right: 304px !important; }";
  document.head.append(beside);

  // The panel asks how things stand only when it is connected, and writes it white on white. Below it: a way to the page
  // of the study, and how things stand now. The panel is drawn anew at times, and takes what is in it along.
  const BELOW = 'semisam-study';

  function clock(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`;
  }

  function standing({ counts, jobs }) {
    const words = [`${counts.done} of ${counts.all} scans done, ${counts.labelled} with a pseudo-label.`];
    for (const job of Object.values(jobs)) {
      if (job.id) {
        const part = job.progress == null ? '' : ` ${Math.floor(100 * job.progress)} %`;
        words.push(`${job.name}${part}${job.seconds_left ? `, about ${clock(job.seconds_left)} left` : ''}.`);
      } else if (job.failure) {
        words.push(`${job.name} has failed: ${job.failure}`);
      }
    }
    return words.join(' ');
  }

  async function look(text) {
    try {
      const answer = await fetch(`${server}semisam/api/work`, { credentials: 'same-origin' });
      text.textContent = answer.ok ? standing(await answer.json()) : '';
    } catch {
      text.textContent = 'The server does not answer. Wait until it does; what you have drawn is still on this page.';
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
    look(text);
  }

  let looked = 0;
  setInterval(() => {
    const panel = document.querySelector('.monaiLabelPanel');
    const box = document.getElementById(BELOW);
    looked += 1;
    if (panel && !box) {
      below(panel);
    } else if (box && !document.hidden && looked % 3 === 0) {
      look(box.querySelector('p'));
    }
  }, 1000);

  window.config.modes.unshift(mode);
  window.config.extensions.push(extension);
})();
