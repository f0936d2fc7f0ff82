// What the server and the DICOM server answer is told in words, and stays on the screen until it is read or has passed.
(() => {
  const { semisam } = window;
  const ASKED = /\/(infer|train|activelearning|info|batch|scoring)\/[^/]*$/;
  const PROXY = /\/proxy\/dicom\//;
  const STORED = /\/proxy\/dicom\/(\w+\/)?studies(\/[^/]*)?$/;
  const SILENT = 'The server does not answer. Wait until it does; what you have drawn is still on this page.';
  const FAILED = '00081198'; // a DICOM server may refuse a file in an answer that is a success otherwise

  // Some of the server's texts speak of 3D Slicer's buttons.
  const inOhif = text => text
    .replace(/\(Submit Label\)/g, '(Export DICOM SEG)')
    .replace(/\(Train in the viewer, or [^)]*\)/g, '(Update Model)')
    .replace(/\(Train in the viewer\)/g, '(Update Model)');

  // --- boxes that stay ------------------------------------------------------------------------------------------------

  const LOOKS = {
    bad: 'background:#7f1d1d;color:#fff;border:2px solid #fca5a5;',
    good: 'background:#14532d;color:#fff;border:2px solid #86efac;',
  };

  function boxes() {
    let list = document.getElementById('semisam-told');
    if (!list) {
      list = document.createElement('div');
      list.id = 'semisam-told';
      list.style.cssText =
        'position:fixed;top:64px;left:50%;transform:translateX(-50%);z-index:100000;width:min(560px,90vw);' +
        'display:flex;flex-direction:column;gap:8px;';
      document.body.append(list);
    }
    return list;
  }

  function forget(kind) {
    document.getElementById(`semisam-${kind}`)?.remove();
  }

  /** Tell something in a box; one of the same kind goes. OHIF's own notices are gone after some seconds. */
  function tell(kind, look, headline, text) {
    forget(kind);
    const box = document.createElement('div');
    box.id = `semisam-${kind}`;
    box.setAttribute('role', look === 'bad' ? 'alert' : 'status');
    box.style.cssText = `${LOOKS[look]}padding:12px 16px;border-radius:8px;font:15px/1.4 sans-serif;overflow-wrap:anywhere;`;
    const title = document.createElement('strong');
    title.textContent = headline;
    const words = document.createElement('p');
    words.style.margin = '4px 0 8px';
    words.textContent = text;
    const close = document.createElement('button');
    close.textContent = 'I have read this';
    close.style.cssText = 'padding:4px 12px;background:#fff;color:#111;border-radius:4px;';
    close.onclick = () => box.remove();
    box.append(title, words, close);
    boxes().append(box);
    return box;
  }

  const clock = () => new Date().toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

  // --- answers --------------------------------------------------------------------------------------------------------

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
      return typeof detail === 'string' ? inOhif(detail) : undefined;
    } catch {
      return undefined;
    }
  }

  function holdsFailures(body) {
    try {
      return Boolean(JSON.parse(body)[FAILED]?.Value?.length);
    } catch {
      return new RegExp(`tag="${FAILED}"[^>]*>\\s*<Item`).test(body); // as XML
    }
  }

  function reasonOf(request) {
    if (!request.status) {
      return SILENT;
    }
    return detailOf(bodyOf(request)) ?? `The server has answered with status ${request.status}. Its log has more.`;
  }

  function stored(request) {
    const body = bodyOf(request);
    const refused = request.status >= 400 || request.status === 0;
    if (refused || holdsFailures(body)) {
      const fallback = request.status
        ? `The DICOM server has refused it (status ${request.status}). Ask whoever looks after it.`
        : 'The server does not answer. Wait until it does.';
      const reason = (refused && detailOf(body)) || fallback;
      forget('stored');
      tell('not-stored', 'bad', 'The segmentation is NOT stored',
        `${reason} What you have drawn is still on this page: do not close it, and export once more.`);
      return;
    }
    forget('not-stored');
    forget('reason');
    semisam.saved?.();
    semisam.lookAgain?.();
    const told = tell('stored', 'good', 'Stored', `The segmentation is stored on the DICOM server, ${clock()}.`);
    setTimeout(() => told.remove(), 20000);
  }

  const DOES = { infer: 'The model has not run', train: 'The training', activelearning: 'There is no next sample', info: 'Not connected' };

  /** The panel says that something failed; the server says why. */
  function answered(request, method, path) {
    const [, what] = path.match(ASKED);
    if (request.status >= 400 || request.status === 0) {
      const headline = what === 'train' ? `The training is not ${method === 'DELETE' ? 'stopped' : 'started'}` : DOES[what] ?? 'Not done';
      tell('reason', 'bad', headline, reasonOf(request));
    } else {
      forget('reason');
      if (what === 'activelearning') {
        semisam.sampled?.(bodyOf(request));
      } else if (what === 'train' && method === 'DELETE' && bodyOf(request).trim() === 'null') {
        tell('reason', 'bad', 'Nothing was stopped', 'No training was running: it had ended before.');
      }
    }
    semisam.lookAgain?.();
  }

  async function isAway() {
    try {
      return (await fetch(`${semisam.server}proxy/dicom/qido/studies?limit=1`, { credentials: 'same-origin' })).status >= 500;
    } catch {
      return true;
    }
  }

  /** OHIF shows nothing, or an empty list, when the DICOM server does not give it what it asks for. */
  async function fetched(request) {
    if (request.status >= 500 || request.status === 0) {
      // One request may fail for a reason of its own, or be broken off by OHIF.
      if (document.querySelector('#semisam-fetch[role=alert]') || !(await isAway()) || leaving) {
        return;
      }
      tell('fetch', 'bad', 'Something could not be fetched from the DICOM server',
        `${request.status ? reasonOf(request) : SILENT} Load this page again when it is back, after you have exported what you have drawn.`);
    } else if (document.querySelector('#semisam-fetch[role=alert]')) {
      tell('fetch', 'good', 'The DICOM server answers again', 'If something is missing here, load this page again.');
    }
  }

  function seen(request, method, path) {
    if (method === 'POST' && STORED.test(path)) {
      stored(request);
    } else if (PROXY.test(path)) {
      fetched(request);
    } else if (ASKED.test(path) && (method !== 'GET' || path.endsWith('/info/'))) {
      answered(request, method, path);
    }
  }

  let leaving = false; // requests that end because the page is left say nothing
  window.addEventListener('pagehide', () => { leaving = true; });
  window.addEventListener('pageshow', () => { leaving = false; });

  const { open, send, abort } = XMLHttpRequest.prototype;
  const asked = new WeakMap();
  XMLHttpRequest.prototype.open = function (method, url, ...others) {
    asked.set(this, { method: String(method).toUpperCase(), path: new URL(url, window.location.href).pathname });
    return open.call(this, method, url, ...others);
  };
  XMLHttpRequest.prototype.abort = function () {
    asked.delete(this);
    return abort.call(this);
  };
  XMLHttpRequest.prototype.send = function (...content) {
    // Whatever the end: also when nobody answers, or the connection breaks.
    this.addEventListener('loadend', () => {
      const known = asked.get(this);
      if (known && !leaving) {
        seen(this, known.method, known.path);
      }
    });
    return send.apply(this, content);
  };

  // OHIF's notices lie over the panel's buttons, and stay as long as the mouse is where they are. Beside the panel they are
  // in nobody's way.
  const beside = document.createElement('style');
  beside.textContent = "[data-sonner-toaster][data-x-position='right'] { right: 304px !important; }";
  document.head.append(beside);

  Object.assign(semisam, { tell, forget, SILENT });
})();
