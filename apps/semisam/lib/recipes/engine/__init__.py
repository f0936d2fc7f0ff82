"""Drives a recipe: rounds, resuming, progress and the report.

::

    a run       run (open, plan, drive), opening, planning, resuming, repair, job (for several processes)
    asked for   report (RunRequest, Observer, RunResult), options and presets, recipe (what a recipe offers)
    at work     context (bookkeeping of rounds), grid, prepared_study, tensor_files, progress
    a round     round_zero, stages (training), kept_training, labelling, label_facts, learned, each_scan
    on disk     run_folder, record, summary (the report page)
"""
