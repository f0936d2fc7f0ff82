// What semisam adds to the OHIF viewer that MONAI Label 0.8.5 brings. These files run after OHIF's own app-config.js, in
// the order of their names. They change `window.config`, a cookie, what is told on the screen, and nothing else.
//
// The mode *MONAI Label*: its address, a way to save labels, and labels the right way up.
window.semisam = {};

(() => {
  const { semisam } = window;
  const MODE = '@ohif/mode-monai-label';
  const SEGMENTS = '@ohif/extension-cornerstone.panelModule.panelSegmentation';

  // The panel would ask port 8000 of this host. The right server is the one that this page comes from.
  semisam.server = window.location.href.split('/ohif/')[0] + '/';
  document.cookie = 'MONAILABEL_SERVER_URL=' + escape(semisam.server);

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
  const changed = new WeakSet();
  const extension = {
    id: 'semisam',
    preRegistration: ({ extensionManager, servicesManager }) => {
      extensions = extensionManager;
      semisam.services = servicesManager.services;
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

  // For studies in a folder: DICOM files of this computer, at /ohif/local.
  if (!window.config.dataSources.some(each => each.sourceName === 'dicomlocal')) {
    window.config.dataSources.push({
      namespace: '@ohif/extension-default.dataSourcesModule.dicomlocal',
      sourceName: 'dicomlocal',
      configuration: { friendlyName: 'DICOM files of this computer' },
    });
  }

  window.config.modes.unshift(mode);
  window.config.extensions.push(extension);
})();
