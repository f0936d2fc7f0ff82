// A question before something drawn is lost: when the page is left or loaded again, on the way back to the list, and at
// the browser's own Back.
(() => {
  const { semisam } = window;
  const QUESTION = 'What you have drawn is not stored yet, and would be lost. Leave this scan all the same?';
  let drawn = false;

  function isDrawn() {
    try {
      return drawn && semisam.services.segmentationService.getSegmentations().length > 0;
    } catch {
      return false;
    }
  }

  semisam.saved = () => {
    drawn = false;
  };

  // Within OHIF, Back leaves no page, so the browser does not ask: the entry that it goes back from is put in twice, the
  // second time with a mark.
  const isMarked = () => Boolean(history.state?.semisamTwice);
  let before = { marked: isMarked(), address: location.href };

  function double() {
    if (!isMarked()) {
      history.pushState({ ...history.state, semisamTwice: true }, '', location.href);
    }
    before = { marked: true, address: location.href };
  }

  window.addEventListener('popstate', event => {
    const left = before;
    before = { marked: isMarked(), address: location.href };
    if (!left.marked || isMarked() || left.address !== location.href) {
      return;
    }
    event.stopImmediatePropagation(); // for OHIF, nothing has happened so far
    if (isDrawn() && !window.confirm(QUESTION)) {
      double();
      return;
    }
    const wasDrawn = isDrawn();
    drawn = false;
    history.back();
    setTimeout(() => {
      if (wasDrawn && location.href === left.address) {
        drawn = true; // there was nothing to go back to
        double();
      }
    }, 1000);
  }, true);

  // The events are there once OHIF's libraries are.
  const timer = setInterval(() => {
    const target = window.cornerstone?.eventTarget;
    const events = window.cornerstoneTools?.Enums?.Events;
    const segmentations = semisam.services?.segmentationService;
    if (!target || !events || !segmentations) {
      return;
    }
    clearInterval(timer);
    target.addEventListener(events.SEGMENTATION_DATA_MODIFIED, () => {
      drawn = true;
      double();
    });
    // A stored one that was opened is not drawn.
    segmentations.subscribe(segmentations.EVENTS.SEGMENTATION_LOADING_COMPLETE, () => setTimeout(semisam.saved, 1000));
  }, 500);

  window.addEventListener('beforeunload', event => {
    if (isDrawn()) {
      event.preventDefault();
      event.returnValue = QUESTION; // browsers that ask only then
    }
  });

  document.addEventListener('click', event => {
    if (!event.target.closest?.('[data-cy="return-to-work-list"]') || !isDrawn()) {
      return;
    }
    if (window.confirm(QUESTION)) {
      drawn = false;
    } else {
      event.stopPropagation();
      event.preventDefault();
    }
  }, true);
})();
