"""Every reach of ``lib`` into a package that is not ours: one a file, with what is lacking or wrong there.

What ``server/upstream`` is for MONAI Label and the web, this is for the packages that the methods stand on. A file
names the package and its version, what it lacks or what is wrong, what is done about it, and the source. Each has a
test in ``tests/lib/upstream`` that fails when the package no longer has the name, or no longer needs it: then the file
goes. SAM is segment-anything 1.0.

| file                   | package      | what is lacking or wrong                     | what is done                |
|------------------------|--------------|----------------------------------------------|-----------------------------|
| ``dynunet``            | MONAI 1.6    | no features before the head; weights twice   | its levels are called       |
| ``gnu_openmp``         | libgomp      | waiting threads spin, cannot be told later   | a team of sleeping threads  |
| ``nnunet_environment`` | nnU-Net 2.8  | settings are environment variables only      | set, and put back           |
| ``nnunet_plans``       | nnU-Net 2.8  | plans may name any Python object             | only nnU-Net's own          |
| ``nnunet_training``    | nnU-Net 2.8  | no call after a step; processes stay behind  | a step is wrapped           |
| ``pip_index``          | pip          | does not say which index it asks             | its private constant        |
| ``sam2_config``        | sam2 1.1     | its builder needs Hydra's global search path | the file is read            |
| ``sam2_memory``        | sam2 1.1     | no public way to encode a memory             | the private method          |
| ``sam2_tables``        | sam2 1.1     | tables go to a GPU by themselves             | moved with the network      |
| ``sam_blocks``         | SAM          | no place for adapters                        | parts of blocks are wrapped |
| ``sam_masks``          | SAM          | one image a call, four masks each            | the decoder's parts         |
| ``sam_size``           | SAM          | one image size                               | tables are resized          |
| ``torch_convolution``  | PyTorch 2.12 | single small scans take a slow convolution   | oneDNN by its name          |
| ``torch_norm``         | PyTorch 2.12 | instance norm changes the memory's layout    | each item as a batch        |
| ``torch_pickle``       | PyTorch 2.12 | ``torch.load`` takes more than tensors       | its names are checked       |
"""
